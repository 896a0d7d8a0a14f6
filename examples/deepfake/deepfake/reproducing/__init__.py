"""Experiments of many trainings: the paper's Table I (plan, steps, estimates, coverage, report) and the ablation."""
