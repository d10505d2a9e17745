"""A line that counts on a terminal."""

import io

from serving.counter import Counter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_counter_draws_on_a_terminal_alone():
    terminal, log = Terminal(), io.StringIO()
    for stream in (terminal, log):
        with Counter("embed", 4, stream) as counter:
            counter.advance(1)
            counter.advance(3)
    assert "[######" in terminal.getvalue()
    assert "4/4" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r\x1b[K")
    assert log.getvalue() == ""


def test_counter_says_how_fast_and_how_long():
    counter = Counter("embed", 4000, io.StringIO())
    counter.advance(1000)
    said = counter.line(10.0)
    assert said == f"embed [{'#' * 7}{'.' * 23}] 1,000/4,000  100/s  30 s left"
    assert "0/4,000" in Counter("embed", 4000, io.StringIO()).line(0.0)


def test_what_was_done_before_says_nothing_about_the_speed():
    counter = Counter("predict", 4000, io.StringIO(), before=3000)
    counter.advance(500)
    said = counter.line(10.0)
    assert said == f"predict [{'#' * 26}{'.' * 4}] 3,500/4,000  50/s  10 s left"
