"""Run a job while its processes, nodes and driver are killed at random, and Ray's own calls fail.

What is killed, and in which order, follows from a seed. When exactly it strikes, and which of Ray's
calls fail, depends on the machine.
"""

import json
import time
from contextlib import suppress
from dataclasses import dataclass

import psutil
from nodes import Nodes

NUM_NODES = 3
KINDS = ("process", "node", "driver")
MAX_FAILURES = 3
"""How often a job may give up, with a sentence, before its next run must end it."""

CALLS = (
    "CoreWorkerService.grpc_client.PushTask",
    "NodeManagerService.grpc_client.CommitBundleResources",
    "NodeManagerService.grpc_client.PinObjectIDs",
    "NodeManagerService.grpc_client.PrepareBundleResources",
    "NodeManagerService.grpc_client.ReturnWorkerLease",
    "ray::rpc::ActorInfoGcsService.grpc_client.CreateActor",
    "ray::rpc::ActorInfoGcsService.grpc_client.GetActorInfo",
    "ray::rpc::ActorInfoGcsService.grpc_client.GetNamedActorInfo",
    "ray::rpc::ActorInfoGcsService.grpc_client.RegisterActor",
    "ray::rpc::InternalKVGcsService.grpc_client.InternalKVGet",
    "ray::rpc::InternalKVGcsService.grpc_client.InternalKVPut",
    "ray::rpc::NodeInfoGcsService.grpc_client.GetAllNodeInfo",
    "ray::rpc::PlacementGroupInfoGcsService.grpc_client.CreatePlacementGroup",
)
"""Ray's calls that fail: those to start tasks, actors and placement groups, and to look things up.
Where every call fails now and then, Ray 2.60 itself waits for an answer for ever."""

PERCENT = {"req_failure_prob": 2, "in_flight_failure_prob": 2, "resp_failure_prob": 2}
RPC_FAILURES = {
    "RAY_testing_rpc_failure": json.dumps({call: {"num_failures": 20, **PERCENT} for call in CALLS})
}
"""Six in a hundred of these calls fail, up to twenty of each in each process: before they are sent,
on their way, or on the way back (Ray's src/ray/rpc/rpc_chaos.cc)."""

WORKERS = ("RayTrainWorker", "ChunkClassifier", "ray::MapWorker", "ray::Map", "ray::FlatMap")
"""How the processes of a job that can be killed call themselves."""


class ChaoticNodes(Nodes):
    """A cluster whose nodes come and go, with room for few objects, and where calls fail."""

    def __init__(self, folder, *, with_rpc_failures):
        super().__init__(folder, **(RPC_FAILURES if with_rpc_failures else {}))
        self.num_added = 0

    def __enter__(self):
        super().__enter__()
        for _ in range(NUM_NODES):
            self.add_next()
        return self

    def add_next(self):
        """Start a node. Where too many calls fail, it does not come up, and another is started."""
        for _ in range(MAX_FAILURES):
            self.num_added += 1
            with suppress(AssertionError):
                return self.add(f"node{self.num_added}")
        raise AssertionError("no node came up")

    def lose(self, kind, chance):
        """Kill a process that works, or replace a node."""
        name = chance.choice(sorted(self.started.keys() - {"head"}))
        if kind == "node":
            self.kill(name)
            self.add_next()
            return
        raylet = psutil.Process(self.started[name].pid)
        working = [child for child in raylet.children(recursive=True) if _works(child)]
        if working:
            chance.choice(working).kill()


def _works(process):
    try:
        return any(name in " ".join(process.cmdline()) for name in WORKERS)
    except psutil.NoSuchProcess:
        return False


@dataclass
class Story:
    """What befell a job until it ended.

    Attributes:
        result: The RESULT line.
        events: What was killed, and each sentence with which the job gave up.
    """

    result: dict
    events: list[str]


def run_under_faults(nodes, chance, num_done, *arguments):
    """Run a job to its end, whatever is killed meanwhile.

    Args:
        nodes: The ``ChaoticNodes``.
        chance: A ``random.Random``.
        num_done: Returns how many chunks or epochs the output holds.
        arguments: The job's command line. ``--resume`` is added when it is submitted again.
    """
    story, plan = Story({}, []), chance.choices(KINDS, k=chance.randint(2, 4))
    process = nodes.job(*arguments)
    failures = 0
    while True:
        if plan and _made_progress(process, num_done):
            time.sleep(chance.random())
            kind = plan.pop(0)
            story.events.append(kind)
            if kind != "driver":
                nodes.lose(kind, chance)
                continue
            process.kill()
        output, errors = process.communicate(timeout=300)
        if process.returncode == 0:
            story.result = json.loads(output.splitlines()[-1].removeprefix("RESULT "))
            return story
        if process.returncode > 0:
            failures += 1
            told = [line for line in errors.splitlines() if line.startswith("fer: ")]
            assert len(told) == 1, errors[-3000:]
            assert failures <= MAX_FAILURES, (story.events, told)
            story.events.append(told[0])
        process = nodes.job(*arguments, "--resume")


def _made_progress(process, num_done):
    """Wait until a job has finished another chunk or epoch; False if it ends before."""
    before = num_done()
    while process.poll() is None:
        if num_done() > before:
            return True
        time.sleep(0.05)
    return False
