"""Runs the tool as a step of a pipeline (component.yaml), and writes down its outputs as Kubeflow Pipelines reads them.

Arguments: the executor's input as JSON, the datasets' names, the destination, how to write to it, a project. It writes
ExecutorOutput of https://github.com/kubeflow/pipelines/blob/master/api/v2alpha1/pipeline_spec.proto
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

CLI = "/app/cli.py"


def main(executor_input: str, datasets: str, to: str, via: str, project: str) -> int:
    """Run the tool, hand on its output and its signals; its exit status."""
    command = [sys.executable, CLI, "--to", to, "--via", via, "--log-format", "json"]
    environment = {**os.environ, "SPOTTED_DATASET": datasets} | ({"GCP_PROJECT": project} if project else {})
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as tool:
        signal.signal(signal.SIGTERM, lambda number, _: tool.send_signal(number))
        results = [json.loads(line) for line in tool.stdout or () if sys.stdout.write(line)]
    write(json.loads(executor_input)["outputs"], to, results)
    return tool.returncode


def write(outputs: dict[str, Any], to: str, results: list[dict[str, Any]]) -> None:
    """The destination as an artifact that knows each dataset's state; the sums of all figures as metrics."""
    numbers = {name for result in results for name, value in result.items() if isinstance(value, (int, float))}
    metadata = {
        "extracted": {result["dataset"]: result["state"] for result in results},
        "metrics": {name: sum(result.get(name) or 0 for result in results) for name in sorted(numbers - {"rate"})},
    }
    artifacts = {}
    for name, each in outputs["artifacts"].items():
        artifact = each["artifacts"][0]
        uri = to if name == "extracted" else artifact["uri"]
        artifacts[name] = {"artifacts": [{"name": artifact["name"], "uri": uri, "metadata": metadata[name]}]}
    file = Path(outputs["outputFile"])
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"artifacts": artifacts}))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
