"""The Serve configuration of a rendered RayService, deployed as KubeRay's operator has it deployed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.deploy.render import serve_config
from cluster.ports import free_port
from cluster.serve_file import load_serve
from cluster.session import Settings
from cluster.store import Store
from serving import endpoint as endpoints

pytestmark = [pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(300)]
KEY = "a-key-of-the-tests"
BROKEN = ("DEPLOY_FAILED", "UNHEALTHY")


def test_a_services_configuration_brings_the_endpoint_up_behind_keys(tiny_base: Path, tmp_path: Path):
    from ray import serve
    from ray.serve.context import _get_global_client
    from ray.serve.schema import ServeDeploySchema

    file, home, port = tmp_path / "serve.yaml", tmp_path / "home", free_port()
    file.write_text(f'endpoint: support\narms:\n  only: {{release: "base:{tiny_base}", weight: 1}}\n')
    config: dict[str, Any] = yaml.safe_load(serve_config(load_serve(str(file))))
    (keeper,) = config["applications"]
    keeper["args"] |= {"host": "127.0.0.1", "port": port}
    config["http_options"] = {"host": "127.0.0.1", "port": port}
    keeper["runtime_env"] = {"env_vars": {"HONE_HOME": str(home), "HONE_API_KEYS": KEY}}
    try:
        serve.start(http_options=config["http_options"])
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config))
        deadline_s = time.monotonic() + 120
        while (state := serve.status().applications["hone-keeper"]).status != "RUNNING":
            assert state.status not in BROKEN, state
            assert time.monotonic() < deadline_s, state
            time.sleep(0.2)
        url, asked = f"http://127.0.0.1:{port}/v1/completions", {"prompt": "the invoice", "max_tokens": 2}
        assert httpx.post(url, json=asked, timeout=30).status_code == 401
        answer = httpx.post(url, json=asked, timeout=30, headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 200, answer.text
        document = endpoints.read(Store(Settings.from_env({"HONE_HOME": str(home)}, tmp_path).home), "support")
        assert document.weights == {"only": 1.0}
    finally:
        serve.shutdown()
