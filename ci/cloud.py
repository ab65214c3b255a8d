"""The AWS side of delivery, set up once: `invoke aws.bootstrap`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.tasks import task

from llm_twin.flow.tasks import tell_errors
from llm_twin.settings import Settings

if TYPE_CHECKING:
    from invoke.context import Context

ROOT = Path(__file__).resolve().parents[1]


@task(
    help={
        "repository": "owner/name on GitHub, in its own upper and lower case",
        "dry-run": "print the roles as JSON; asks AWS nothing",
        "environment": "GitHub environment whose jobs may deploy",
        "branch": "branch whose jobs may push",
        "account": "AWS account; default: that of the credentials",
        "image": "name of the ECR repository",
        "prefix": "how names of roles and endpoints begin",
        "owner-id": "GitHub's number of the owner: for repositories made after 15 July 2026",
        "repository-id": "GitHub's number of the repository",
        "look-up-ids": "ask GitHub for the two numbers",
        "update": "mend what differs, instead of only showing it",
    },
    auto_shortflags=False,
)
@tell_errors
def bootstrap(
    c: Context,
    repository: str,
    dry_run: bool = False,
    environment: str = "production",
    branch: str = "main",
    account: str = "",
    image: str = "llm-twin",
    prefix: str = "llm-twin",
    owner_id: str = "",
    repository_id: str = "",
    look_up_ids: bool = False,
    update: bool = False,
) -> None:
    """Make the AWS roles with which this repository's jobs push and deploy; no keys are stored."""
    from llm_twin.delivery import aws, aws_roles
    from llm_twin.delivery.aws_scope import Scope

    settings = Settings.load(root=ROOT)
    session = None if dry_run else aws.session(settings)
    if session:
        account = aws_roles.account_of(session, account)
    if look_up_ids:
        owner_id, repository_id = aws_roles.look_up_ids(repository)
    scope = Scope(
        repository=repository,
        account=account,
        region=aws.find_region(settings),
        image=image,
        prefix=prefix,
        branch=branch,
        environment=environment,
        owner_id=owner_id,
        repository_id=repository_id,
        assume_role=settings.aws_assume_role,
    )
    if session is None:
        print(json.dumps(aws_roles.plan(scope), indent=2))
        return
    changed = aws_roles.bootstrap(session, scope, update=update)
    print("nothing to change" if not changed else f"{changed} changed")
    for purpose in ("build-push", "deploy"):
        print(f"TWIN_AWS_ROLE of the {purpose} job: {scope.role(purpose)}")


aws = Collection("aws")
aws.add_task(bootstrap)
