"""One answer path, retrieve → prompt → generate → cite, for a command and a service alike.

::

    twin = open_production(settings)                 # llm_twin.serving.twin
    llm = open_llm(settings.llm, settings, twin)     # llm_twin.serving.llm
    found = answer("What is a stage?", twin, llm)    # llm_twin.serving.answer
    print(render(found))                             # llm_twin.serving.render

Nothing is imported here: each module is loaded by whoever needs it.
"""
