"""The paper's Table I: plan, steps, estimates, coverage of the data, report."""
