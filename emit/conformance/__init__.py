"""
Does a program speak emit-node/1? Scenarios in JSON, played against fresh processes of it.

The scenarios and value vectors are data, in ``tests/conformance`` of the checkout and in the wheel;
its README.md describes their form and the nodes that a program under test has. Here is what plays
them::

    template    values in scenarios: matching, and building the large ones     (pure)
    scenario    reading the files, and what of them is to be played            (pure)
    vectors     values.json as scenarios                                       (pure)
    listener    what has come from the process                                 (pure)
    talk        one process and its pipes
    steps       what each step of a scenario does
    runner      all scenarios, some at a time
    verdict     features, requirements and expected failures                   (pure)
    report      pretty, TAP, JUnit, JSON                                       (pure)
"""
