"""Mistakes: type checkers must find one in each line that says so. Nothing here is run."""

from __future__ import annotations

from celery import Celery

from emit import CeleryRouter, Message, Router, RQRouter, ShellNode
from emit.multilang import Limits

router = Router(message_class=dict)  # wrong
Router(node_modules=["nodes"], redis_connection="redis://")  # wrong
tasks = CeleryRouter(celery_tsk=Celery().task)  # wrong
jobs = RQRouter(redis_connection=5)  # wrong
RQRouter("redis://", node_package=3)  # wrong


def words(msg: Message) -> None: ...


router.node()  # wrong
router.node("word")  # wrong
router.node({"word", "length"})  # wrong
router.node(5)  # wrong
router.node(["word"], 5)  # wrong
router.node(["word"], [words, 5])  # wrong
router.node(["word"], entry_point="yes")  # wrong
router.node(["word"], ignore=5)  # wrong
router.node(["word"], nme="words")  # wrong
router.node(["word"], name=words)  # wrong
router.node(["word"], stream=1)  # wrong
router.node(["word"], pass_through="no")  # wrong
router.node(["word"], validate=None)  # wrong
router.node(["word"], batch="10")  # wrong
router.node(["word"], batch_bytes=1.5)  # wrong
router.node(["word"], many=1)  # wrong
router.node(["word"], return_results="x")  # wrong
router.node(["word"], max_attempts=None)  # wrong
router.node(["word"], max_retries="3")  # wrong
router.node(["word"], max_deliveries=2.5)  # wrong
router.node(["word"], celery_task="app.task")  # wrong
router.node(["word"], queue=5)  # wrong
router.node(["word"], connection=5)  # wrong
router.node(["word"], timeout=[5])  # wrong
router.node(["word"], result_ttl=2.5)  # wrong
router.node(["word"], command=5)  # wrong
router.node(["word"], file=["words.rb"])  # wrong
router.node(["word"], cwd=5)  # wrong
router.node(["word"], env={"A": 5})  # wrong
router.node(["word"], pass_env=5)  # wrong
router.node(["word"], config=[1])  # wrong
router.node(["word"], program_node=words)  # wrong
router.node(["word"], dead_letter="letters")  # wrong
router.node(["word"], mode="onshot")  # wrong
router.node(["word"], codec="yaml")  # wrong
router.node(["word"], start_timeout="5")  # wrong
router.node(["word"], acquire_timeout="5")  # wrong
router.node(["word"], size=2.5)  # wrong
router.node(["word"], min_idle=None)  # wrong
router.node(["word"], window="x")  # wrong
router.node(["word"], max_calls=1.5)  # wrong
router.node(["word"], max_age="1h")  # wrong
router.node(["word"], max_rss="1G")  # wrong
router.node(["word"], idle_timeout="1m")  # wrong
router.node(["word"], jitter=None)  # wrong
router.node(["word"], max_frame=None)  # wrong
router.node(["word"], max_results=1.5)  # wrong
router.node(["word"], max_result_bytes="1M")  # wrong
router.node(["word"], cancel_grace=None)  # wrong
router.node(["word"], stop_grace="2")  # wrong
router.node(["word"], term_grace="3")  # wrong
router.node(["word"], backoff=None)  # wrong
router.node(["word"], backoff_max="30")  # wrong
router.node(["word"], breaker_failures=1.5)  # wrong
router.node(["word"], breaker_window=None)  # wrong
router.node(["word"], breaker_open="60")  # wrong
router.node(["word"], limits={"cpu": 1})  # wrong
router.node(["word"], limits=Limits(cpus=1))  # wrong
router.node(["word"])(5)  # wrong
tasks.node(["word"], rate_limit="5/s")  # wrong
jobs.node(["word"], result_tll=5)  # wrong


class Program(ShellNode):
    command = 5  # wrong
    file = ["words.rb"]  # wrong
    env = {"A": 5}  # wrong
    mode = "onshot"  # wrong
    timeout = "5"  # wrong
    max_age = "1h"  # wrong
    size = 2.5  # wrong
    limits = {"cpu": 1}  # wrong

    def get_command(self) -> str:  # wrong
        return "jq"


node = router.node(["word"])(words)
node(5)  # wrong
node({"word": 1}, 5)  # wrong
node.delay(word="rain")  # wrong
router("the rain")  # wrong
router.observe(5)  # wrong
job = jobs.node(["word"])(words)
job.delay(5)  # wrong
job.dely(word="rain")  # wrong
