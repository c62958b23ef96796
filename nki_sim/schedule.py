"""Programs that run side by side, one at a time: the cores of a launch, the ranks of a group.

Every program is a task on a thread of its own, and exactly one task runs at any moment. It keeps
running until it must wait for another one, so a run is deterministic; `shuffled` hands over at
random between instructions instead, which a correct program does not notice. When every task
waits, the wait can never end: that is reported at once, with the place where each of them stands.
"""

from __future__ import annotations

import contextvars
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from random import Random
from types import FrameType
from typing import Any

from .errors import IllegalProgram

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep

_seed: ContextVar[int | None] = ContextVar("nki_sim_schedule_seed", default=None)
_task: ContextVar[Task | None] = ContextVar("nki_sim_task", default=None)


@contextmanager
def shuffled(seed: int) -> Iterator[None]:
    """Hand over at random (reproducibly, by `seed`) between the instructions of what starts inside
    the ``with``.
    """
    token = _seed.set(seed)
    try:
        yield
    finally:
        _seed.reset(token)


class Abandoned(BaseException):
    """Unwinds a task whose companion has failed; never leaves the scheduler."""


class Task:
    """One program.

    Attributes:
        label: how errors call it, e.g. ``core 1``.
        ready: while it waits, whether it could go on now; None while it could run anyway.
        what: what it waits for, in words.
        joining: it waits for tasks that it started.
        ended: its work is over.
        operation: the instruction that it waits in.
    """

    def __init__(self, label: str) -> None:
        self.label = label
        self.ready: Callable[[], bool] | None = None
        self.what = ""
        self.operation = ""
        self.joining = False
        self.ended = False
        self.failed = False
        self.turn = threading.Lock()
        self.turn.acquire()
        self.thread: threading.Thread | None = None
        self.ident = threading.get_ident()

    def can_run(self, stopping: bool) -> bool:
        """Whether it may be given the turn."""
        if self.ended:
            return False
        if stopping and not self.joining:
            return True
        return self.ready is None or self.ready()


class Meeting:
    """A point that several members reach before any of them leaves it."""

    __slots__ = ("arrived", "done", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self.arrived: dict[Hashable, Any] = {}
        self.done = False


class Scheduler:
    """The tasks that take turns.

    Attributes:
        failure: the first error of any task; all others are then abandoned.
        deferred: errors of tasks that have ended while the others may still tell the real cause.
    """

    def __init__(self) -> None:
        seed = _seed.get()
        self.random = None if seed is None else Random(seed)
        self.tasks: list[Task] = []
        self.failure: BaseException | None = None
        self.deferred: list[BaseException] = []
        self.stopping = False
        self._open: dict[Hashable, Meeting] = {}
        self._meetings = 0

    # -- tasks -------------------------------------------------------------------------------------

    @contextmanager
    def adopted(self, label: str) -> Iterator[Task]:
        """Make the calling thread a task."""
        task = Task(label)
        self.tasks.append(task)
        token = _task.set(task)
        try:
            yield task
        finally:
            task.ended = True
            _task.reset(token)

    def spawn(self, label: str, work: Callable[[], None]) -> Task:
        """Start a task, in the caller's context; it runs when it is given the turn."""
        task = Task(label)
        context = contextvars.copy_context()
        task.thread = threading.Thread(
            target=context.run, args=(self._main, task, work), name=f"nki_sim {label}", daemon=True
        )
        self.tasks.append(task)
        task.thread.start()
        return task

    def _main(self, task: Task, work: Callable[[], None]) -> None:
        task.ident = threading.get_ident()
        task.turn.acquire()
        _task.set(task)
        try:
            if not self.stopping:
                work()
        except Abandoned:
            pass
        except BaseException as error:
            self.fail(error)
        task.ended = True
        following = self._choose()
        if following is None and not self.stopping:
            self._stop(self._deadlock())
            following = self._choose()
        if following is not None:
            following.turn.release()

    def fail(self, error: BaseException) -> None:
        """Note an error and abandon all tasks."""
        if not isinstance(error, Abandoned):
            self._stop(error)

    def _stop(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        self.stopping = True

    def join(self, tasks: Sequence[Task]) -> None:
        """Wait until `tasks` have ended, whatever happens to them."""
        me = current_task()
        me.joining = True
        try:
            self._wait(me, lambda: all(task.ended for task in tasks), "the end of the others", "")
        except KeyboardInterrupt:
            self._scatter(tasks)
            raise
        finally:
            me.joining = False
        for task in tasks:
            if task.thread is not None:
                task.thread.join()
            self.tasks.remove(task)

    def _scatter(self, tasks: Sequence[Task]) -> None:
        """Let all tasks unwind at once: after an interrupt nobody knows whose turn it is."""
        self.stopping = True
        for task in tasks:
            with suppress(RuntimeError):
                task.turn.release()

    # -- turns -------------------------------------------------------------------------------------

    def wait(self, ready: Callable[[], bool], what: str, operation: str) -> None:
        """Let others run until ``ready()``.

        Raises:
            IllegalProgram: all tasks wait.
        """
        me = current_task()
        if self.random is None and not self.stopping and ready():
            return
        self._wait(me, ready, what, operation)
        if self.stopping:
            raise Abandoned

    def _wait(self, me: Task, ready: Callable[[], bool], what: str, operation: str) -> None:
        me.ready, me.what, me.operation = ready, what, operation
        try:
            self._hand_over(me)
        finally:
            me.ready = None

    def pause(self) -> None:
        """Between two instructions: perhaps let another task run."""
        if self.random is not None and self.random.random() < 0.5:
            self._hand_over(current_task())
        if self.stopping:
            raise Abandoned

    def _hand_over(self, me: Task) -> None:
        following = self._choose()
        if following is None:
            error = self._deadlock()
            self._stop(error)
            if not me.joining:
                raise error
            following = self._choose()
        if following is not None and following is not me:
            following.turn.release()
            me.turn.acquire()

    def _choose(self) -> Task | None:
        able = [task for task in self.tasks if task.can_run(self.stopping)]
        if not able:
            return None
        return able[0] if self.random is None else self.random.choice(able)

    # -- meetings ----------------------------------------------------------------------------------

    def meet(
        self,
        key: Hashable,
        members: int,
        me: Hashable,
        payload: Any,
        act: Callable[[dict[Any, Any]], None],
        what: str,
        operation: str,
    ) -> int:
        """Wait until `members` different tasks have come to meeting `key`; the last one to come
        acts on what all of them brought. Returns the meeting's number in the run.
        """
        meeting = self._open.get(key)
        if meeting is None:
            self._meetings += 1
            meeting = self._open[key] = Meeting(self._meetings)
        meeting.arrived[me] = payload
        if len(meeting.arrived) == members:
            del self._open[key]
            act(meeting.arrived)
            meeting.done = True
        gathered = meeting
        self.wait(lambda: gathered.done, what, operation)
        return meeting.number

    # -- what went wrong ---------------------------------------------------------------------------

    def _deadlock(self) -> BaseException:
        """What to say when nobody can run."""
        if self.deferred:
            return self.deferred[0]
        shown = [task for task in self.tasks if not task.joining]
        waiting = [task for task in shown if not task.ended]
        text = "\n".join(self._where(task) for task in shown)
        return IllegalProgram(
            waiting[0].operation if waiting else "launch",
            "what one program waits for, the others must do too, in the same order",
            f"a wait that never ends:\n{text}\n",
            "call it on all of them, outside of conditions on program_id or the rank",
        )

    def _where(self, task: Task) -> str:
        if task.ended:
            return f"{task.label} has {'failed' if task.failed else 'finished'}"
        stack = "".join(kernel_stack(sys._current_frames().get(task.ident)))
        return f"{task.label} waits for {task.what}, at\n{stack.rstrip()}"


def current_task() -> Task:
    """The task that runs on this thread."""
    task = _task.get()
    assert task is not None
    return task


def kernel_stack(frame: FrameType | None) -> list[str]:
    """The user's part of a stack, as traceback prints it: what stands above the launch."""
    if frame is None:
        return []
    frames = traceback.extract_stack(frame)
    launches = [
        position
        for position, one in enumerate(frames)
        if one.filename.startswith(_OURS) and one.name in ("_run_core", "_run_rank")
    ]
    inside = frames[launches[-1] + 1 :] if launches else frames
    users = [one for one in inside if not one.filename.startswith(_OURS)]
    users = [one for one in users if os.path.basename(one.filename) != "threading.py"]
    return traceback.format_list(users)


def call_site() -> str:
    """``file.py:line`` of the innermost caller outside of this package."""
    frame = _caller()
    if frame is None:
        return "an unknown place"
    return f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"


def advise(text: str) -> None:
    """Warn at the kernel's line of what this simulator takes and the documents refuse."""
    frame = _caller()
    if frame is None:
        warnings.warn(text, stacklevel=2)
    else:
        registry = frame.f_globals.setdefault("__warningregistry__", {})
        warnings.warn_explicit(
            text, UserWarning, frame.f_code.co_filename, frame.f_lineno, registry=registry
        )


def _caller() -> FrameType | None:
    """The innermost frame outside of this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OURS):
        frame = frame.f_back
    return frame
