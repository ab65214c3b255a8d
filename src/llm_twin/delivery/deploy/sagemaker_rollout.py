"""The way of one deployment to its endpoint, and back.

Every step asks AWS how far things are, so it may be done again by a process that knows nothing but
the deployment's facts. Which configuration served before is one of them: it is read before anything
is made, because another machine's journal may have put it there.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from llm_twin.delivery.aws_roles import account_of
from llm_twin.delivery.deploy.backends import environment
from llm_twin.delivery.deploy.sagemaker_endpoint import DRAIN, STARTING, Endpoint, canary
from llm_twin.delivery.deploy.sagemaker_parts import Parts, tags
from llm_twin.delivery.deploy.sagemaker_plan import Plan
from llm_twin.delivery.deploy.sagemaker_watch import Watch
from llm_twin.delivery.deploy.smoke import LATENCY_SECONDS, QUESTION, smoke
from llm_twin.delivery.ecr import HOST, Ecr
from llm_twin.delivery.reference import Reference
from llm_twin.errors import BusyError, ConfigError, RemoteError, TwinError

if TYPE_CHECKING:
    from llm_twin.delivery.deploy.sagemaker import SageMaker
    from llm_twin.delivery.deploy.sagemaker_endpoint import State
    from llm_twin.delivery.deploy.steps import Deployment

COMMIT = "org.opencontainers.image.revision"
VERSION = "org.opencontainers.image.version"
TRACES = "/tmp/traces"  # noqa: S108 - of the container, which may write there
PUSH = "Set TWIN_REGISTRY to the one in {}, then type: invoke build-push"


class Rollout:
    """What is done for one deployment; ``SageMaker`` says in which order."""

    def __init__(
        self, target: SageMaker, deployment: Deployment, previous: Deployment | None = None
    ) -> None:
        self._target = target
        self._deployment = deployment
        self._previous = previous

    @cached_property
    def _session(self) -> Any:
        return self._target.session(self._facts.get("region", ""))

    @property
    def _facts(self) -> dict[str, str]:
        return self._deployment.facts

    @cached_property
    def _plan(self) -> Plan:
        known = Plan.read(self._facts)
        settings, session = self._target.settings, self._session
        return known or Plan.make(settings, account_of(session), session.region_name)

    @cached_property
    def _endpoint(self) -> Endpoint:
        target = self._target
        return Endpoint(self._session, self._plan.endpoint, target.tell, target.pause)

    @cached_property
    def _parts(self) -> Parts:
        return Parts(self._session, self._plan.endpoint)

    @cached_property
    def _watch(self) -> Watch:
        return Watch(self._session, self._plan.endpoint)

    @property
    def _name(self) -> str:
        """Of the deployment's model and configuration."""
        return f"{self._plan.endpoint}-{self._deployment.id}"

    @property
    def _tags(self) -> list[dict[str, str]]:
        one = self._deployment
        commit = self._facts.get("commit", "")
        return tags(self._plan.endpoint, deployment=one.id, digest=one.digest, commit=commit)

    def check(self) -> dict[str, str]:
        """Find out what would go wrong before anything is made, and what serves now."""
        plan, ref = self._plan, Reference.parse(self._deployment.image)
        self._check_place(plan)
        self._check_image(ref, plan.region)
        state = self._endpoint.look_if_ours()
        if state and not state.settled:
            raise BusyError(
                f"the endpoint is {state.status}", plan.endpoint, "Wait until it is InService"
            )
        labels = self._target.labels(ref)
        options = self._deployment.options
        return plan.facts() | {
            "before": state.config if state and state.serves else "",
            "scaled": str(self._watch.most()),
            "commit": labels.get(COMMIT, ""),
            "version": labels.get(VERSION, ""),
            "question": options.get("question") or labels.get("llm-twin.smoke-question", ""),
            "citation": options.get("citation") or labels.get("llm-twin.smoke-citation", ""),
        }

    def _check_place(self, plan: Plan) -> None:
        """One journal, one endpoint: else an undeploy would not know which."""
        live = Plan.read(self._previous.facts) if self._previous else None
        if live and (live.endpoint, live.region) != (plan.endpoint, plan.region):
            raise ConfigError(
                f"this journal is that of another endpoint than {plan.endpoint}",
                f"{live.endpoint} in {live.region}",
                "Type: invoke undeploy --target sagemaker, or set TWIN_HOME to another folder",
            )

    def _check_image(self, ref: Reference, region: str) -> None:
        found = HOST.fullmatch(ref.host)
        account = account_of(self._session)
        if not found or found.groups() != (account, region):
            place = f"account {account}, region {region}"
            raise ConfigError(
                f"SageMaker runs images from ECR in {place} only", ref, PUSH.format(place)
            )
        if not Ecr(account, region, self._session.client("ecr")).image_digest(ref):
            raise ConfigError("ECR has no such image", ref, "Push it: invoke build-push")

    def make_model(self) -> None:
        """Say which image, as whom it runs, and what it is told.

        No keys: whoever may describe the model could read them.
        """
        told = environment(self._target.settings, self._deployment, secrets=False)
        told["TWIN_TRACE_HOME"] = TRACES
        self._parts.make_model(
            self._name, self._deployment.image, self._plan.role, self._tags, told
        )

    def remove_model(self) -> None:
        """Take the model away."""
        self._parts.remove_model(self._name)

    def make_config(self) -> None:
        """Say on which machines the model runs."""
        self._parts.make_config(self._name, self._plan.instance, self._tags)

    def remove_config(self) -> None:
        """Take the configuration away."""
        self._parts.remove_config(self._name)

    def make_alarms(self) -> None:
        """Make the alarms that take a new version back."""
        self._watch.make_alarms(self._latency)

    def remove_alarms(self) -> None:
        """Take the alarms away if there is no endpoint for them."""
        if not self._endpoint.look():
            self._watch.remove_alarms()

    @property
    def _latency(self) -> float:
        return float(self._deployment.options.get("latency") or LATENCY_SECONDS)

    def start(self) -> None:
        """Let the endpoint take up the configuration; ``wait`` sees how it goes."""
        state = self._endpoint.look_if_ours()
        if state and self._name in (state.config, state.pending):
            return
        if state and state.serves:
            if state.config != self._facts["before"]:
                raise BusyError(
                    "another machine deployed meanwhile", self._plan.endpoint, "Deploy again"
                )
            self._update(state)
        else:
            self._endpoint.remove()  # one that failed cannot be updated
            self._endpoint.create(self._name, self._tags)

    def _update(self, state: State) -> None:
        plan = self._plan
        if self._changes_machines(state.config):
            self._watch.unscale()  # SageMaker refuses that under a scaling policy
        ringing = self._watch.ringing()
        if ringing:
            names = ", ".join(ringing)
            self._target.tell(f"{names}: rings already, so it cannot judge the new version")
        calm = [name for name in self._watch.alarms if name not in ringing]
        self._endpoint.update(self._name, canary(int(plan.canary), int(plan.bake), calm))

    def wait(self) -> None:
        """Wait until the new version has all of the traffic, and ask it meanwhile.

        The questions are for the alarms: on a little traffic and none of readers' they would see
        nothing.
        """
        question = self._facts.get("question") or QUESTION
        limit = STARTING + int(self._plan.bake) + DRAIN
        state = self._endpoint.settle(limit, lambda: self._endpoint.knock(question))
        if state is None or (state.config, state.status) != (self._name, "InService"):
            raise self._refused(state)

    def _refused(self, state: State | None) -> TwinError:
        where = self._plan.endpoint
        if state is None:
            return RemoteError("the endpoint was deleted meanwhile", where, "Deploy again")
        named = [name for name in self._watch.alarms if name in state.reason]
        if names := ", ".join(named if state.reason else self._watch.ringing()):
            hint = "Look at the alarm in the AWS console"
            return TwinError(f"SageMaker took the new version back: alarm {names}", where, hint)
        lines = self._watch.last_lines()
        hint = f"Its last lines were: {lines}" if lines else ""
        reason = state.reason.rstrip(".") or f"SageMaker gives no reason; it is {state.status}"
        return TwinError(f"the new version does not come up ({reason})", where, hint)

    def go_back(self) -> None:
        """Let the endpoint be as it was: on the old configuration, or not there."""
        state, before = self._endpoint.settle(), self._facts.get("before", "")
        if state and state.config == self._name:
            if not before:
                self._endpoint.remove()
                return
            self._endpoint.update(before)
            state = self._endpoint.settle()
            if state is None or state.config != before:
                raise TwinError("the endpoint did not go back", self._plan.endpoint)
        most = int(self._facts.get("scaled", "0"))
        if state and before and most and self._changes_machines(before):
            self._watch.scale(most)

    def _changes_machines(self, before: str) -> bool:
        return self._parts.instance(before) != self._plan.instance

    def smoke(self) -> dict[str, str]:
        """Ask what the old version was asked before it went live."""
        question, citation = self._facts.get("question", ""), self._facts.get("citation", "")
        return smoke(self._endpoint.ask, self._endpoint.is_ready, question, citation, self._latency)

    def scale(self) -> None:
        """Let the number of instances follow the load."""
        self._watch.scale(int(self._plan.instances))

    def unscale(self) -> None:
        """End the scaling of an endpoint that is about to go."""
        if not self._facts.get("before"):
            self._watch.unscale()

    def retire(self) -> None:
        """Delete older models and configurations; those that served before this one stay."""
        keep = {self._name, self._facts.get("before", "")}
        for name in self._parts.names() - keep:
            self._parts.remove_config(name)
            self._parts.remove_model(name)

    def stop_scaling(self) -> None:
        """Begin to take everything away, if it is ours."""
        self._endpoint.look_if_ours()
        self._watch.unscale()

    def stop(self) -> None:
        """Delete the endpoint."""
        if self._endpoint.look_if_ours():
            self._endpoint.remove()

    def sweep(self) -> None:
        """Delete every model and configuration that bears the endpoint's tag."""
        for name in self._parts.names():
            self._parts.remove_config(name)
            self._parts.remove_model(name)
