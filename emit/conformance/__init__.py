"""
Test whether a program speaks emit-node/1: play scenarios, each against a fresh process.

The scenarios and the value vectors are data. They are in ``tests/conformance`` of the checkout, and
in the wheel. Their README.md describes their form, and the nodes that a program under test needs.
The modules, from the top down::

    runner      plays all scenarios, some at a time, and judges the outcomes
    report      prints a verdict: pretty, TAP, JUnit, JSON                     (no I/O)
    steps       does each step of a scenario; turns values.json into scenarios
    talk        one process, its pipes, and the frames that it has sent
    scenario    reads scenarios; builds and compares the values in them
"""
