"""Paths and who owns them."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lva import BaseBackgroundHandler, admin_only, query_parameter
from lva.host.routing import Owner, RouteTable
from lva.routes.admin import is_admin_only
from lva.routes.query import query_parameters_of


def plain(request, **variables):
    return variables


class Handler(BaseBackgroundHandler):
    async def get(self, request):
        return "got"

    def post(self, request, **variables):
        return ("posted", variables)


@pytest.fixture
def table():
    return RouteTable()


@pytest.fixture
def owner():
    return Owner("teapot")


def test_a_function_serves_get_unless_told_otherwise(table, owner):
    route = table.add(owner, "/a", plain)
    assert table.match("/a").route is route
    assert route.allowed == ["GET", "OPTIONS", "HEAD"]
    assert table.add(owner, "/b", plain, methods={"post", "PUT"}).allowed == [
        "POST",
        "PUT",
        "OPTIONS",
    ]
    assert table.add(owner, "/c", plain, methods="delete").allowed == ["DELETE", "OPTIONS"]


def test_what_is_declared_of_a_verb_holds_below_other_decorators(table, owner):
    """The kind is a marker that is lost on the way, so that anybody may call what few may."""

    class Timed:
        def __init__(self, method):
            self._method = method

        def __call__(self, *args):
            return self._method(*args)

        def __getattr__(self, name):
            return getattr(self._method, name)

    class Timing(BaseBackgroundHandler):
        @Timed
        @admin_only
        @query_parameter("most", "How many.")
        def get(self, request):
            """Say how it is."""

    serves = table.add(owner, "/a", Timing).verbs["GET"]
    assert is_admin_only(serves)
    assert [parameter.name for parameter in query_parameters_of(serves)] == ["most"]


async def test_a_handler_class_serves_its_verbs_with_a_new_instance_each(table, owner):
    seen = []

    class Counting(Handler):
        def __init__(self):
            seen.append(self)

    verbs = table.add(owner, "/a", Counting).verbs
    assert set(verbs) == {"GET", "POST"}
    assert await verbs["GET"](None) == "got"
    assert verbs["POST"](None, n=1) == ("posted", {"n": 1})
    assert len(set(map(id, seen))) == 2
    assert table.add(owner, "/b", Handler, methods=["get"]).allowed == ["GET", "OPTIONS", "HEAD"]


@pytest.mark.parametrize(
    ("path", "matching", "variables"),
    [
        ("/cameras/<int:camera>", "/cameras/12", {"camera": 12}),
        (
            "/cameras/<camera>/frames/<float:at>",
            "/cameras/x/frames/1.5",
            {"camera": "x", "at": 1.5},
        ),
        ("/files/<path:rest>", "/files/a/b/c", {"rest": "a/b/c"}),
        ("/plain", "/plain/", {}),
        ("/plain/", "/plain", {}),
        ("/", "/", {}),
        ("/größe", "/größe", {}),
    ],
)
def test_paths_may_hold_variables(table, owner, path, matching, variables):
    table.add(owner, path, plain)
    match = table.match(matching)
    assert match.route.template == path
    assert dict(match.variables) == variables
    assert table.match("/other/thing/altogether") is None


def test_the_most_specific_path_answers(table, owner):
    for path in ("/a/<path:rest>", "/a/<name>", "/a/<int:number>", "/a/fixed"):
        table.add(owner, path, plain)
    assert table.match("/a/fixed").route.template == "/a/fixed"
    assert table.match("/a/5").route.template == "/a/<int:number>"
    assert table.match("/a/word").route.template == "/a/<name>"
    assert table.match("/a/b/c").route.template == "/a/<path:rest>"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "a",
        "//a",
        "/a//b",
        "/a?b",
        "/a#b",
        "/a b",
        "/<",
        "/<int:>",
        "/<unknown:x>",
        "/<x>/<x>",
        None,
        5,
    ],
)
def test_a_malformed_path_is_refused(table, owner, path):
    with pytest.raises(ValueError, match="path"):
        table.add(owner, path, plain)
    assert [*owner.routes.values()] == []


@pytest.mark.parametrize(
    ("handler", "methods", "said"),
    [
        (plain, {"fetch"}, "unknown methods"),
        (plain, set(), "methods is empty"),
        (plain, {"get", "a b"}, "unknown methods"),
        (object, None, "must derive from BaseBackgroundHandler"),
        (BaseBackgroundHandler, None, "has no method to serve"),
        (Handler, {"delete"}, "has no method to serve"),
        ("text", None, "no class and no function"),
        (None, None, "no class and no function"),
    ],
)
def test_a_handler_that_cannot_serve_is_refused(table, owner, handler, methods, said):
    with pytest.raises(ValueError, match=said):
        table.add(owner, "/a", handler, methods)
    assert table.match("/a") is None


@pytest.mark.parametrize(
    ("first", "second"),
    [("/a", "/a"), ("/a", "/a/"), ("/a/<int:x>", "/a/<int:y>"), ("/<x>", "/<string:y>")],
)
def test_a_path_has_one_owner(table, owner, first, second):
    route = table.add(owner, first, plain)
    with pytest.raises(ValueError, match="belongs to plugin 'teapot'"):
        table.add(Owner("other"), second, plain)
    with pytest.raises(ValueError, match="was added before by this plugin"):
        table.add(owner, second, plain)
    assert [*owner.routes.values()] == [route]


def test_paths_that_differ_in_their_converters_are_different(table, owner):
    table.add(owner, "/a/<int:x>", plain)
    table.add(Owner("other"), "/a/<x>", plain)
    assert table.match("/a/1").route.owner is owner


@pytest.mark.parametrize(
    "path", ["/healthz", "/healthz/", "/healthz/x", "/plugins", "/plugins/<name>", "/plugins/x/y/z"]
)
def test_what_is_the_service_s_stays_the_service_s(table, owner, path):
    service = Owner(None)
    table.add(service, "/healthz", plain)
    table.add(service, "/plugins/<name>", plain)
    with pytest.raises(ValueError, match="belongs to the service"):
        table.add(owner, path, plain)
    table.add(owner, "/healthzz", plain)


def test_a_restart_renews_what_is_added_again_and_drops_the_rest(table, owner):
    old = [table.add(owner, "/kept", plain), table.add(owner, "/dropped", plain)]
    other = table.add(Owner("other"), "/other", plain)
    table.mark_stale(owner)
    assert [table.match(path).route for path in ("/kept", "/dropped")] == old
    new = table.add(owner, "/kept", plain, methods={"post"})
    assert table.match("/kept").route is new
    with pytest.raises(ValueError, match="added before"):
        table.add(owner, "/kept", plain, methods={"post"})
    table.drop_stale(owner)
    assert table.match("/dropped") is None
    assert [*owner.routes.values()] == [new]
    assert table.match("/other").route is other


def test_other_verbs_of_a_path_may_be_added_by_another_call(table, owner):
    route = table.add(owner, "/a/<x>", plain)
    assert table.add(owner, "/a/<x>", plain, methods={"post", "put"}) is route
    assert table.match("/a/1").route.allowed == ["GET", "POST", "PUT", "OPTIONS", "HEAD"]
    with pytest.raises(ValueError, match="added before"):
        table.add(owner, "/a/<x>", plain, methods={"delete", "put"})
    with pytest.raises(ValueError, match="added before"):
        table.add(owner, "/a/<y>", plain, methods={"delete"})
    with pytest.raises(ValueError, match="belongs to plugin"):
        table.add(Owner("other"), "/a/<x>", plain, methods={"delete"})


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "remove", "stale", "drop"]),
            st.sampled_from(["p", "q"]),
            st.sampled_from(["/a", "/b", "/a/<int:n>", "/<x>"]),
        ),
        max_size=30,
    )
)
def test_the_table_does_what_a_plain_dict_would_do(steps):
    table = RouteTable()
    owners = {"p": Owner("p"), "q": Owner("q")}
    model: dict[str, tuple[str, bool]] = {}
    for step, name, path in steps:
        if step == "add":
            free = path not in model or model[path] == (name, True)
            if free:
                table.add(owners[name], path, plain)
                model[path] = (name, False)
            else:
                with pytest.raises(ValueError):
                    table.add(owners[name], path, plain)
        elif step == "remove":
            table.remove(owners[name])
            model = {path: value for path, value in model.items() if value[0] != name}
        elif step == "stale":
            table.mark_stale(owners[name])
            model = {path: (who, stale or who == name) for path, (who, stale) in model.items()}
        else:
            table.drop_stale(owners[name])
            model = {path: value for path, value in model.items() if value != (name, True)}
        expected = {
            "/a": next((path for path in ("/a", "/<x>") if path in model), None),
            "/z": "/<x>" if "/<x>" in model else None,
            "/a/7": "/a/<int:n>" if "/a/<int:n>" in model else None,
        }
        for url, template in expected.items():
            match = table.match(url)
            assert (match and match.route.template) == template
            if match:
                assert match.route.owner.name == model[template][0]


async def test_calls_are_cancelled_and_waited_for(autojump_clock, owner):
    ended = []

    async def serve(grace):
        with trio.CancelScope() as scope:
            owner.begin(scope)
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(grace)
                ended.append(grace)
                owner.end(scope)

    async with trio.open_nursery() as nursery:
        for grace in (1, 2):
            nursery.start_soon(serve, grace)
        await trio.testing.wait_all_tasks_blocked()
        begun = trio.current_time()
        await owner.cancel_calls().wait()
        assert ended == [1, 2]
        assert trio.current_time() - begun == 2
        assert owner.cancel_calls().is_set()
        nursery.start_soon(serve, 20)
        await trio.testing.wait_all_tasks_blocked()
        assert not owner.cancel_calls().is_set()


async def test_everybody_who_waits_for_an_owner_to_be_idle_is_told(owner):
    call = trio.CancelScope()
    owner.begin(call)
    first, second = owner.cancel_calls(), owner.idle()
    owner.end(call)
    assert first.is_set()
    assert second.is_set()


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("/cams/<name:str>", "write <string:name>"),
        ("/cams/<number:int>/x", "write <int:number>"),
        ("/files/<rest:path>", "write <path:rest>"),
    ],
)
def test_a_type_behind_its_name_is_told_how_to_be_written(table, owner, path, hint):
    """As in Sanic, whose plugins are written that way round."""
    with pytest.raises(ValueError, match=hint):
        table.add(owner, path, lambda request: "")
