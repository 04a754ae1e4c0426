"""Real models answer, as `plumb pull` fetches them by name. PLUMB names the program.

PLUMB_CACHE names the folder of the models. A model that is not there and cannot be fetched is skipped.
"""

import os
import subprocess
import unittest

PLUMB = os.environ["PLUMB"]


def plumb(*arguments, seconds=240):
    return subprocess.run([PLUMB, *arguments], capture_output=True, timeout=seconds)


class KnownModels(unittest.TestCase):
    def answers(self, model, prompt, answer, n_tokens, *backends):
        pulled = plumb("pull", model, seconds=600)
        if pulled.returncode != 0:
            self.skipTest(f"needs {model}: " + pulled.stderr.decode(errors="replace").strip())
        for backend in backends:
            done = plumb("run", model, "-p", prompt, "--temp", "0", "-n", str(n_tokens), "--backend", backend)
            self.assertEqual(done.stdout.decode(), answer, done.stderr)

    def test_smollm2(self):
        self.answers("smollm2", "What is the capital of France?", "The capital of France is Paris.\n", 32, "cpu", "reference")

    def test_gemma3(self):
        # A base model: it goes on with the text.
        self.answers("gemma3-270m", "One, two, three, four,", " five, six, seven, eight\n", 7, "cpu", "reference")

    def test_qwen_coder(self):
        self.answers("qwen2.5-coder-0.5b", "Write only the Python expression that is the sum of 2 and 3.", "2 + 3\n", 8, "cpu")


if __name__ == "__main__":
    unittest.main(verbosity=2)
