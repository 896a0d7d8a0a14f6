"""Tests of how errors, time and memory are measured, and of the certificate."""
