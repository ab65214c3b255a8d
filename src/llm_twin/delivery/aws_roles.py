"""Make the roles of ``aws_policies`` in an account, or show how those that are there differ."""

from __future__ import annotations

import difflib
import json
import os
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.aws import plain_errors
from llm_twin.delivery.aws_policies import POLICY, SESSION, roles
from llm_twin.delivery.aws_scope import AUDIENCE, ISSUER
from llm_twin.errors import ConfigError, RemoteError, TwinError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from llm_twin.delivery.aws_policies import Role
    from llm_twin.delivery.aws_scope import Scope

TIMEOUT = 10


def plan(scope: Scope) -> dict[str, Any]:
    """Everything that ``bootstrap`` makes, as plain JSON; asks nobody."""
    return {
        "provider": {"arn": scope.provider, "url": f"https://{ISSUER}", "audience": AUDIENCE},
        "roles": {
            role.name: {
                "arn": scope.role(role.name.removeprefix(f"{scope.prefix}-")),
                "trust": role.trust,
                "policy": role.policy,
                "reasons": {item.sid: item.reason for item in role.statements},
            }
            for role in roles(scope)
        },
    }


def bootstrap(
    session: Any, scope: Scope, *, update: bool = False, tell: Callable[[str], None] = print
) -> int:
    """Create what is missing and return how many things were changed.

    Args:
        session: a ``boto3.Session`` with permission to write IAM.
        scope: what the roles are for.
        update: also mend what differs; else it is shown as a diff and left as it is.
        tell: is given a line for each provider and role, and the diffs.

    Raises:
        TwinError: something differs and ``update`` was not given, or AWS refused.

    """
    with plain_errors():
        iam = session.client("iam")
        done = [_provider(iam, scope, update, tell)]
        done += [_role(iam, role, update, tell) for role in roles(scope)]
    if "differs" in done:
        what = f"{done.count('differs')} of {len(done)} differ from what they should be"
        raise TwinError(what, scope.account, "Read the diff, then add --update")
    return sum(state != "unchanged" for state in done)


def account_of(session: Any, expected: str = "") -> str:
    """Return the account of a session's credentials.

    Raises:
        ConfigError: it is not the expected one.

    """
    with plain_errors():
        account = str(session.client("sts").get_caller_identity()["Account"])
    if expected and account != expected:
        what = f"these credentials are of account {account}"
        raise ConfigError(what, hint=f"Change AWS_PROFILE, or --account {expected}")
    return account


def look_up_ids(repository: str, environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Ask GitHub's API for the numbers of a repository's owner and of the repository.

    Raises:
        ConfigError: there is no such repository, or it is private and no GITHUB_TOKEN is set.
        RemoteError: GitHub did not answer.

    """
    import requests

    environ = os.environ if environ is None else environ
    url = f"{environ.get('GITHUB_API_URL', 'https://api.github.com')}/repos/{repository}"
    token = environ.get("GITHUB_TOKEN", "")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = requests.get(url, headers=headers, timeout=TIMEOUT)
        if answer.status_code in (401, 403, 404):
            what = f"GitHub shows no such repository ({answer.status_code})"
            raise ConfigError(what, repository, "Set GITHUB_TOKEN, or give the ids by flag")
        found = answer.json()
        return str(found["owner"]["id"]), str(found["id"])
    except (requests.RequestException, KeyError, TypeError) as error:
        what = f"GitHub gave no ids ({type(error).__name__})"
        raise RemoteError(what, url, "Give --owner-id and --repository-id") from None


def _provider(iam: Any, scope: Scope, update: bool, tell: Callable[[str], None]) -> str:
    try:
        found = iam.get_open_id_connect_provider(OpenIDConnectProviderArn=scope.provider)
    except iam.exceptions.NoSuchEntityException:
        # No thumbprint: IAM checks GitHub's certificate with its own list of authorities and has
        # ignored thumbprints for it since 2023.
        iam.create_open_id_connect_provider(Url=f"https://{ISSUER}", ClientIDList=[AUDIENCE])
        return _said(tell, "created", f"provider {ISSUER}")
    audiences = found.get("ClientIDList", [])
    if AUDIENCE in audiences:
        return _said(tell, "unchanged", f"provider {ISSUER}")
    tell(_diff(ISSUER, sorted(audiences), sorted([*audiences, AUDIENCE])))
    if not update:
        return _said(tell, "differs", f"provider {ISSUER}")
    iam.add_client_id_to_open_id_connect_provider(
        OpenIDConnectProviderArn=scope.provider, ClientID=AUDIENCE
    )
    return _said(tell, "updated", f"provider {ISSUER}")


def _role(iam: Any, role: Role, update: bool, tell: Callable[[str], None]) -> str:
    wanted = {
        "description": role.description,
        "trust": role.trust,
        "policies": {POLICY: role.policy},
        "attached": [],
        "longest session": SESSION,
    }
    found = _read(iam, role.name)
    if found == wanted:
        return _said(tell, "unchanged", f"role {role.name}")
    if found is None:
        iam.create_role(
            RoleName=role.name,
            Description=role.description,
            AssumeRolePolicyDocument=json.dumps(role.trust),
            MaxSessionDuration=SESSION,
        )
    # A role without any policy is one whose creation was cut off.
    elif found != wanted | {"policies": {}}:
        tell(_diff(role.name, found, wanted))
        if not update:
            return _said(tell, "differs", f"role {role.name}")
        _mend(iam, role, found)
    iam.put_role_policy(
        RoleName=role.name, PolicyName=POLICY, PolicyDocument=json.dumps(role.policy)
    )
    return _said(tell, "created" if found is None else "updated", f"role {role.name}")


def _read(iam: Any, name: str) -> dict[str, Any] | None:
    try:
        role = iam.get_role(RoleName=name)["Role"]
    except iam.exceptions.NoSuchEntityException:
        return None
    policies = iam.list_role_policies(RoleName=name)["PolicyNames"]
    attached = iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]
    return {
        "description": role.get("Description", ""),
        "trust": role["AssumeRolePolicyDocument"],
        "policies": {
            policy: iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
            for policy in policies
        },
        "attached": [item["PolicyArn"] for item in attached],
        "longest session": role.get("MaxSessionDuration", SESSION),
    }


def _mend(iam: Any, role: Role, found: Mapping[str, Any]) -> None:
    """Make all of a role right but its own policy, which is put last."""
    for policy in found["policies"].keys() - {POLICY}:
        iam.delete_role_policy(RoleName=role.name, PolicyName=policy)
    for arn in found["attached"]:
        iam.detach_role_policy(RoleName=role.name, PolicyArn=arn)
    iam.update_assume_role_policy(RoleName=role.name, PolicyDocument=json.dumps(role.trust))
    iam.update_role(RoleName=role.name, Description=role.description, MaxSessionDuration=SESSION)


def _diff(name: str, found: Any, wanted: Any) -> str:
    before, after = (
        json.dumps(item, indent=2, sort_keys=True).splitlines() for item in (found, wanted)
    )
    return "\n".join(
        difflib.unified_diff(
            before, after, f"{name} as it is", f"{name} as it should be", "", "", 3, ""
        )
    )


def _said(tell: Callable[[str], None], state: str, what: str) -> str:
    tell(f"{state}: {what}")
    return state
