"""From graded answers to scores, intervals, findings and figures.

Reads tables only: no network, no torch, nothing is asked for and nothing trained here.
"""
