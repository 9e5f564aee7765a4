"""A real Jupyter server that tells its own handler table, and two users: ada may, mallory is denied by the authorizer."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dstack_jupyter.models.home import Home
from tests.conftest import wait_until
from tools.lab_server import listening_port

ADA, MALLORY, BOB = "ada-token-1", "mallory-token-2", "bob-token-3"

CODE = (
    """
import json, sys
from jupyter_server.auth import Authorizer, User
from jupyter_server.auth.identity import IdentityProvider
from jupyter_server.serverapp import ServerApp

class Two(IdentityProvider):
    async def get_user_token(self, handler):
        return {ADA: User("ada"), BOB: User("bob"), MALLORY: User("mallory")}.get(self.get_token(handler))

class Deny(Authorizer):
    async def is_authorized(self, handler, user, action, resource):  # Jupyter takes an answer that comes later too
        if user.username == "bob":  # everything but code of his own
            return (action, resource) != ("execute", "kernels")
        return user.username != "mallory" or not resource.startswith("dstack_jupyter:")

app = ServerApp.instance(identity_provider_class=Two, authorizer_class=Deny)
app.initialize(sys.argv[2:])
table = []
for rule in app.web_app.default_router.rules:
    inner = getattr(rule.target, "rules", [rule])
    for each in inner:
        target = each.target
        if isinstance(target, type):
            methods = [m for m in target.SUPPORTED_METHODS
                       if getattr(target, m.lower()) is not __import__("tornado.web").web.RequestHandler._unimplemented_method]
            table.append([each.matcher.regex.pattern, target.__module__, methods])
with open(sys.argv[1], "w") as file:
    json.dump(table, file)
app.start()
""".replace("ADA", repr(ADA))
    .replace("MALLORY", repr(MALLORY))
    .replace("BOB", repr(BOB))
)


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    port: int
    table: list[tuple[str, str, list[str]]]
    log: Path

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        data = None if body is None else json.dumps(body).encode()
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in {**headers, **({"Content-Length": str(len(data))} if data is not None else {})}.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(data)
        response = connection.getresponse()
        answer = response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
        connection.close()
        return answer

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def start(home: Home) -> Server:
    folder = home.create().root.parent
    runtime, table, log = folder / "runtime-walker", folder / "table.json", folder / "walker.log"
    arguments = ["--no-browser", "--allow-root", "--port=0", "--ip=127.0.0.1", f"--ServerApp.root_dir={folder}", "--debug"]
    arguments += [f"--IdentityProvider.token={ADA}"]
    env = {**os.environ, "JUPYTER_RUNTIME_DIR": str(runtime), "JUPYTER_SERVER_ALLOW_UNAUTHENTICATED_ACCESS": "false"}
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", CODE, str(table), *arguments], env=env, stdout=out, stderr=out)
    wait_until(lambda: listening_port(runtime) or process.poll() is not None, 60, "the Jupyter server")
    assert process.poll() is None, log.read_text()[-3000:]
    return Server(process, listening_port(runtime) or 0, json.loads(table.read_text()), log)
