"""The page says why the persistent cache did not have a program, in a real browser."""

from __future__ import annotations

import pytest

from tests.integration.browser import Page, running_browser
from tests.integration.conftest import need, running_job
from tests.waiting import wait_until

pytestmark = pytest.mark.server

JOB = """
import json, sys
import jitwatch
folder, rate = sys.argv[1], float(sys.argv[2])
watch = jitwatch.install(port=0, cache_index=folder + "/index")
import jax, jax.numpy as jnp
jax.config.update("jax_compilation_cache_dir", folder + "/cache")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

@jax.jit
def train_step(x):
    return jnp.tanh(x) * rate

train_step(jnp.ones(5))
print(json.dumps({"url": watch.url}), flush=True)
sys.stdin.readline()
"""


def test_detail_says_why_the_cache_missed(tmp_path):
    with running_job(tmp_path / "job.py", JOB, arguments=[str(tmp_path), "0.5"]) as job:
        job.line()
        job.end()
    with (
        running_browser(need("chromium"), need("chromedriver", "chromium-driver")) as browser,
        running_job(tmp_path / "job.py", JOB, arguments=[str(tmp_path), "0.25"]) as job,
    ):
        page = Page(browser, job.line()["url"])
        page.open("#f=__main__.train_step")
        wait_until(lambda: page.texts("#detail ol > li"), what="the compile")
        said = "The program changed: the constant 0.5 changed to 0.25."
        wait_until(lambda: said in " ".join(page.texts("#detail ol > li")), timeout_s=15, what="the explanation")
        assert [] == page.errors()
        job.end()
