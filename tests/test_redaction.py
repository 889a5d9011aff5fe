"""No secret in a text, a log line or a traceback."""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
import traceback
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

import pytest

from sources.core import redaction
from sources.core.errors import ConfigurationError, TypeFlip, summarize
from sources.core.redaction import RedactingFilter, clear, install, redact, register_secret

SECRET = 'k/ey+42 "é\\x'


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    clear()
    factory, root = logging.getLogRecordFactory(), logging.getLogger()
    handlers, filters = list(root.handlers), {handler: list(handler.filters) for handler in root.handlers}
    levels = {name: logging.getLogger(name).level for name in redaction._LOUD}
    logging.setLogRecordFactory(logging.LogRecord)
    yield
    clear()
    logging.setLogRecordFactory(factory)
    root.handlers[:] = handlers
    for handler in handlers:
        handler.filters[:] = filters[handler]
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize(
    "spelling",
    [
        SECRET,
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(SECRET.encode()).decode(),
    ],
)
def test_a_registered_secret_is_masked_in_every_spelling(spelling: str) -> None:
    assert redact(f"before {spelling} after") == f"before {spelling} after"
    register_secret(SECRET)
    assert redact(f"before {spelling} after").replace('"', "").replace("=", "") == "before *** after"


def test_a_pasted_line_break_does_not_hide_the_secret() -> None:
    register_secret("abcdef123\n")
    assert redact("got abcdef123.") == "got ***."


def test_short_strings_are_no_secrets() -> None:
    for short in ("", "a", "admin", "  abc  "):
        register_secret(short)
    assert redact("a admin abc") == "a admin abc"


def test_of_two_nested_secrets_the_longer_goes_first() -> None:
    register_secret("abcdef")
    register_secret("abcdefghij")
    assert redact("abcdefghij abcdef") == "*** ***"


def test_a_lone_surrogate_can_be_a_secret() -> None:
    register_secret("abcdef\ud800")
    assert redact("x abcdef\ud800 y") == "x *** y"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("GET /x?api_key=abc123&page=2", "GET /x?api_key=***&page=2"),
        ("?api_keys=abc123", "?api_keys=***"),
        ("?page=1&session_token=abc123#top", "?page=1&session_token=***"),
        ("token=abc123, rest", "token=***, rest"),
        ("api_key%3Dabc123&x", "api_key%3D***&x"),
        ("Api-Key = 'abc 123' rest", "Api-Key = *** rest"),
        ("password=hunter2 host=db", "password=*** host=db"),
        ("x-api-key: abc123", "x-api-key: ***"),
        ('{"api_key": "abc 123", "id": 1}', '{"api_key": "***", "id": 1}'),
        ("{'password': 'abc123', 'id': 1}", "{'password': '***', 'id': 1}"),
        ('{\\"secret\\": \\"abc123\\"}', '{\\"secret\\": \\"***"}'),
        ("Authorization: Key abc123\nNext: line", "Authorization: ***\nNext: line"),
        ('authorization=Digest a="b", response="c"', "authorization=***"),
        ("{'Authorization': 'Key abc123', 'X': '1'}", "{'Authorization': '***', 'X': '1'}"),
        ("[(b'Authorization', b'Key abc123'), (b'X', b'1')]", "[(b'Authorization', b'***'), (b'X', b'1')]"),
        ("postgresql://me:p@ss:w0rd@db:5432/x", "postgresql://***@db:5432/x"),
        ("https://t0ken@host/x", "https://***@host/x"),
    ],
)
def test_what_looks_like_a_credential_is_masked(text: str, masked: str) -> None:
    assert redact(text) == masked
    assert redact(f"{masked}. Check it") == f"{redact(text)}. Check it", "a second pass eats nothing more"


@pytest.mark.parametrize(
    "text",
    [
        "https://host/path?page=1&size=250",
        "the api_key setting is missing: write sources.tune.api_key",
        '{"token": ""}',
        "Unexpected token: <",
        "17 tokens and a secretary",
        "mail me@example.com about //shares",
        "城市 = 北京",
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    register_secret(SECRET)
    assert redact(text) == text


def test_a_long_text_is_masked_in_good_time() -> None:
    register_secret("abcdef123")
    text = "a" * 300_000 + "token" * 20_000 + "//" * 50_000
    worker = threading.Thread(target=redact, args=(text,), daemon=True)
    worker.start()
    worker.join(timeout=3)
    assert not worker.is_alive()


def test_registering_while_redacting() -> None:
    stop, problems = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            if redact("x secret-0000 y") != "x *** y":
                problems.append("leaked")

    register_secret("secret-0000")
    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    writers = [threading.Thread(target=register_secret, args=(f"secret-{number:04}",)) for number in range(25)]
    for writer in writers:
        writer.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert not problems
    assert all(redact(f"secret-{number:04}") == "***" for number in range(25))


# ---------------------------------------------------------------- logging


def stream_to(logger: logging.Logger) -> io.StringIO:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    return stream


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.Logger("alone", logging.DEBUG)
    yield logger
    logger.handlers.clear()


def log_everything(logger: logging.Logger) -> None:
    logger.info("message abcdef123")
    logger.info("argument %s and %d%%", "abcdef123", 5)
    logger.info({"mapping": "abcdef123"})
    logger.info("split abc%s", "def123")
    logger.info("does not fit abcdef123 %d", "abcdef123")
    try:
        raise ValueError("inner abcdef123")
    except ValueError:
        try:
            raise KeyError("outer abcdef123")
        except KeyError:
            logger.exception("caught", stack_info=True)  # the stack shows this line: abcdef123


def test_the_control_leaks(logger: logging.Logger) -> None:
    register_secret("abcdef123")
    stream = stream_to(logger)
    log_everything(logger)
    assert stream.getvalue().count("abcdef123") >= 6


@pytest.mark.parametrize("way", ["filter", "factory"])
def test_nothing_logged_holds_a_secret(logger: logging.Logger, way: str, capsys: pytest.CaptureFixture[str]) -> None:
    register_secret("abcdef123")
    if way == "factory":
        install()
    stream = stream_to(logger)  # after install: later handlers are covered, also of loggers off the root
    if way == "filter":
        logger.handlers[0].addFilter(RedactingFilter())
    log_everything(logger)
    text = stream.getvalue() + capsys.readouterr().err
    assert "abcdef123" not in text
    assert "INFO argument *** and 5%" in text and "INFO split ***" in text
    assert "INFO does not fit ***" in text
    assert "ValueError: inner ***" in text and "KeyError: 'outer ***'" in text and "Stack (most recent" in text


def test_a_formatter_of_its_own_gets_no_raw_exception(logger: logging.Logger) -> None:
    class Own(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            raw = "".join(traceback.format_exception(record.exc_info[1])) if record.exc_info else ""
            return raw + super().format(record)

    register_secret("abcdef123")
    install()
    stream = stream_to(logger)
    logger.handlers[0].setFormatter(Own())
    log_everything(logger)
    assert "abcdef123" not in stream.getvalue() and "ValueError: inner ***" in stream.getvalue()


def test_install_filters_the_root_handlers_once_and_keeps_an_older_factory(logger: logging.Logger) -> None:
    class Marked(logging.LogRecord):
        pass

    logging.setLogRecordFactory(Marked)
    root = logging.getLogger()
    stream = stream_to(root)
    install()
    install()
    ours = [each for each in root.handlers[-1].filters if isinstance(each, RedactingFilter)]
    assert len(ours) == 1
    register_secret("abcdef123")
    record = logging.getLogRecordFactory()("n", logging.WARNING, "f", 1, "abcdef123", (), None)
    assert isinstance(record, Marked) and record.getMessage() == "***"
    foreign = logging.LogRecord("n", logging.WARNING, "f", 1, "foreign abcdef123", (), None)
    root.handle(foreign)
    assert stream.getvalue() == "WARNING foreign ***\n"


def test_install_quiets_the_loud_libraries_but_not_for_ever() -> None:
    logging.getLogger("httpx").setLevel(logging.NOTSET)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    install()
    assert logging.getLogger("httpx").level == logging.WARNING
    assert logging.getLogger("urllib3").level == logging.ERROR
    logging.getLogger("httpx").setLevel(logging.DEBUG)
    install()
    assert logging.getLogger("httpx").level == logging.DEBUG


# ---------------------------------------------------------------- errors


def test_an_error_is_one_redacted_line_in_every_shape() -> None:
    register_secret("abcdef123")
    error = ConfigurationError(
        what="bad\nkey abcdef123", where="tune", why="api_key=zzz\x00 \x1b[31m", todo="Write sources.tune.api_key"
    )
    assert str(error) == "bad key *** (tune): api_key=*** [31m. Write sources.tune.api_key"
    assert "abcdef123" not in repr(error) + repr(vars(error)) + repr(error.args)


def test_a_secret_registered_later_is_masked_as_well() -> None:
    error = ConfigurationError(what="bad abcdef123")
    register_secret("abcdef123")
    assert str(error) == "bad ***" and "abcdef123" not in repr(error)


def test_type_flip_names_table_column_both_types_and_the_way_out() -> None:
    text = str(TypeFlip(table="queries", column="id", known="bigint", arrived="text", todo="Declare id as text"))
    for part in ("queries", "column id", "bigint", "text", "Declare id as text"):
        assert part in text


def test_summarize_any_exception() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("abcdef123")

    register_secret("abcdef123")
    assert summarize(ValueError("a\nb abcdef123")) == "ValueError: a b ***"
    assert summarize(KeyboardInterrupt()) == "KeyboardInterrupt"
    assert summarize(Unprintable()) == "Unprintable: (it cannot be printed)"
    assert summarize(ConfigurationError(what="plain")) == "plain"
    long = summarize(ValueError("x" * 485 + " abcdef123" * 50))
    assert len(long) == 500 and "abcdef" not in long
