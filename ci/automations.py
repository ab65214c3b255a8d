"""When this repository's pipelines run by themselves, and what is said then: `invoke automate`.

All that asks for training asks `ct-due` or `loop`, which share one cooldown and one budget of a
day; see docs/how-to/triggers.md.
"""

from llm_twin.flow.automation import (
    Automations,
    absent,
    alert,
    cron,
    files_changed,
    from_payload,
    metric,
    run_ended,
    run_flow,
    webhook,
)

automations = Automations()

automations.add(
    "weekly-training",
    when=cron("17 3 * * 1", timezone="UTC"),
    do=run_flow("ct-due", cause="schedule"),
    overlap="skip",
)
automations.add(
    "corpus-pushed",
    when=webhook("corpus", secret_env="TWIN_WEBHOOK_SECRET"),  # noqa: S106
    do=run_flow(
        "ct-due",
        cause="webhook",
        corpus=from_payload("corpus", default=""),
        profile=from_payload("profile", default=""),
    ),
)
# Numbers only: a look that had too few questions changes nothing here.
automations.add(
    "drift-hourly",
    when=cron("7 * * * *", timezone="UTC"),
    do=run_flow("watch-drift"),
    overlap="skip",
)
automations.add(
    "questions-drifted",
    when=metric("drift.questions.drifted", above=0, for_last=3),
    do=run_flow("ct-due", cause="drift of questions"),
)
automations.add(
    "scores-drifted",
    when=metric("drift.scores.drifted", above=0, for_last=3),
    do=run_flow("ct-due", cause="drift of scores"),
)
# What was told "not now" in the last day is not forgotten.
automations.add(
    "put-off",
    when=cron("52 * * * *", timezone="UTC"),
    do=run_flow("ct-due", cause="put off"),
    overlap="skip",
)
automations.add(
    "no-training-for-8-days",
    when=absent(run_ended("ct", states=("Completed",)), within="8d"),
    do=alert("no continuous training completed for 8 days", severity="warning"),
)
automations.add(
    "worse-retrieval",
    when=metric("ct.retrieval.hit@5", below=0.7),
    do=alert("training made a twin that finds less than it should", severity="warning"),
)
# An open alert about answers, enough feedback or new documents make it turn; else it does nothing.
automations.add(
    "loop-hourly",
    when=cron("37 * * * *", timezone="UTC"),
    do=run_flow("loop"),
    overlap="skip",
)
automations.add(
    "documents-changed",
    when=files_changed("docs/**/*.md", "*.md", settle="10m"),
    do=run_flow("loop"),
    overlap="skip",
)
