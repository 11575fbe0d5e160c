"""What GitHub runs: strangers' code without secrets or rights, the same commands as here, and publishing without any code."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = {
    path.name: yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    for path in sorted((ROOT / ".github" / "workflows").glob("*.y*ml"))
}
JOBS = [
    pytest.param(flow, job, id=f"{name}-{title}")
    for name, flow in WORKFLOWS.items()
    for title, job in flow["jobs"].items()
]
COMMANDS = re.compile(r"make [a-z]+|bash \.ci/run|\.venv/bin/(papernotes|mkdocs) [a-z]+( --[a-z]+)*")
PUBLISHING = {"pages": "write", "id-token": "write"}
ACTIONS = {
    "checkout", "setup-python", "cache", "cache/restore", "upload-artifact", "download-artifact", "configure-pages",
    "upload-pages-artifact", "deploy-pages",
}  # fmt: skip


def runs_code(job):
    return any("run" in step for step in job["steps"]) or any(
        "checkout" in step.get("uses", "") for step in job["steps"]
    )


def rights(flow, job):
    return job.get("permissions", flow.get("permissions"))


def test_a_pull_request_a_night_and_a_push_each_have_a_workflow():
    events = {event for flow in WORKFLOWS.values() for event in flow["on"]}
    assert events == {"pull_request", "schedule", "workflow_dispatch", "push"}


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_what_runs_code_can_read_the_repository_and_nothing_else(flow, job):
    assert rights(flow, job) == ({"contents": "read"} if runs_code(job) else PUBLISHING)


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_no_job_sees_a_secret_or_keeps_a_token(flow, job):
    assert "secrets." not in str(job)
    assert "github.token" not in str(job)
    for step in job["steps"]:
        if "actions/checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] == "false"


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_everything_that_runs_is_a_command_of_the_readme(flow, job):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for step in job["steps"]:
        if command := step.get("run", ""):
            assert COMMANDS.fullmatch(command), command
            if command.startswith("make "):
                assert re.search(rf"^{command}\b", readme, re.MULTILINE), command


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_only_githubs_own_actions_are_used_each_at_a_version(flow, job):
    for step in job["steps"]:
        if used := step.get("uses"):
            name, _, version = used.removeprefix("actions/").partition("@")
            assert used.startswith("actions/") and name in ACTIONS, used
            assert re.fullmatch(r"v\d+|[0-9a-f]{40}", version), used


@pytest.mark.parametrize(("flow", "job"), JOBS)
def test_what_someone_else_can_name_reaches_no_shell_but_as_a_variable(flow, job):
    assert not [step["run"] for step in job["steps"] if "${{" in step.get("run", "")]
    assert job["timeout-minutes"]


def test_what_a_pull_request_made_is_restored_by_nobody():
    (job,) = WORKFLOWS["pull_request.yml"]["jobs"].values()
    assert [step["uses"] for step in job["steps"] if "cache" in step.get("uses", "")] == ["actions/cache/restore@v4"]
