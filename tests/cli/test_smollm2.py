"""A real model answers: SmolLM2-135M-Instruct as `plumb pull smollm2` fetches it. PLUMB names the program.

PLUMB_CACHE names the folder of the model. If the model is not there and cannot be fetched, the tests are skipped.
"""

import os
import subprocess
import unittest

PLUMB = os.environ["PLUMB"]


def plumb(*arguments, seconds=120):
    return subprocess.run([PLUMB, *arguments], capture_output=True, timeout=seconds)


class SmolLM2(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        pulled = plumb("pull", "smollm2", seconds=600)
        if pulled.returncode != 0:
            raise unittest.SkipTest("needs SmolLM2: " + pulled.stderr.decode(errors="replace").strip())

    def test_the_capital_of_france(self):
        for backend in ("cpu", "reference"):
            done = plumb("run", "smollm2", "-p", "What is the capital of France?", "--temp", "0", "-n", "32", "--backend", backend)
            self.assertEqual(done.stdout.decode(), "The capital of France is Paris.\n", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
