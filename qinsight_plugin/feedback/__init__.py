"""Ratings by people: a page that asks, a file that keeps, one scale for all answers.

folder -> study -> asking -> page -> store -> opinions -> mos, comparisons -> joining -> labels
"""
