"""The prompt language: weights, schedules, alternation, chunks, networks; choices, wildcards and styles. Pure.

`docs/prompt-language.md` has the grammar. `resolve` turns what was asked into one text per picture, `parse` reads that
text, `at_step` says what it is in one step.
"""
