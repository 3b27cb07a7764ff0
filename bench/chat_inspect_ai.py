"""inspect_ai as a client of the benchmark's server, run by bench/chat.py in .venv-bench.

Arguments: address, requests, how many at once.
"""

import json
import os
import sys
import tempfile
import time

address, requests, at_once = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
work = tempfile.TemporaryDirectory()
os.environ |= {
    "OPENAI_BASE_URL": address,
    "OPENAI_API_KEY": "none",
    "INSPECT_LOG_DIR": work.name,
    "XDG_DATA_HOME": work.name,
}

from inspect_ai import Task, eval  # noqa: E402
from inspect_ai.dataset import MemoryDataset, Sample  # noqa: E402
from inspect_ai.log import read_eval_log  # noqa: E402
from inspect_ai.solver import generate  # noqa: E402

if __name__ == "__main__":
    samples = [Sample(input=f"question {i}", id=i) for i in range(requests)]
    settings = {
        "max_connections": at_once,
        "max_samples": at_once,
        "display": "none",
        "log_dir": work.name,
    }
    start = time.perf_counter()
    (log,) = eval(
        Task(dataset=MemoryDataset(samples), solver=generate()),
        model="openai/m",
        model_args={"responses_api": False},
        **settings,
    )
    seconds = time.perf_counter() - start
    usable = sum(
        bool(s.output and s.output.completion) for s in read_eval_log(log.location).samples
    )
    print(json.dumps({"seconds": seconds, "usable": usable}))
