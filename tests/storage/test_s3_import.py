"""What S3 needs before the first request, without a store."""

import subprocess
import sys

INTERRUPTED = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path, target=None):
        if name == "boto3.resources":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

# Whoever runs the tests in the background may have turned this off.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
from fer.storage import s3
for attempt in range(2):
    try:
        print(s3.client("anonymous@bucket").meta.service_model.service_name)
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_an_interrupted_import_is_no_loss():
    """Ray cancels a task by SIGINT, and keeps its process for the next one."""
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        env={"AWS_DEFAULT_REGION": "us-east-1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.split(), done.stderr) == (["interrupted", "s3"], "")
