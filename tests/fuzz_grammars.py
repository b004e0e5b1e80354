"""Files as their formats' grammars allow them, with anything in the places of values."""

import json
from typing import Any

from hypothesis import strategies as st

ODD_NUMBERS = (
    *(b"0", b"-0", b"1", b"-1", b"2", b"3", b"0.5", b".5", b"1.", b"1.0000001", b"1.00000001"),
    *(b"1e400", b"-1e400", b"1e39", b"1e-50", b"1e-400", b"1e30", b"nan", b"NaN", b"-inf"),
    *(b"Infinity", b"1_0", b"0x10", b"\xd9\xa1", b"9" * 400, b"9" * 5000, b"0." + b"3" * 400),
    *(b"16777217", b"2147483648", b"9223372036854775808", b"1e", b"+1", b"--1", b"1,5", b"''"),
)
ODD_BYTES = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\r",
    b"\n",
    b"\t",
    b" ",
    b"\x85",
)


def label_files() -> st.SearchStrategy[bytes]:
    """YOLO label files: good rows, and rows of odd fields."""
    fractions = st.floats(0, 1).map(lambda value: repr(value).encode())
    fields = st.one_of(fractions, fractions, st.sampled_from((*ODD_NUMBERS, *ODD_BYTES)))
    row = st.one_of(
        st.tuples(st.sampled_from((b"0", b"1", b"2", b"3")), *[fractions] * 4),
        st.lists(fields, max_size=12).map(tuple),
    )
    rows = st.lists(row.map(b" ".join), max_size=6)
    ends = st.sampled_from((b"\n", b"\r\n", b"\r", b"\n\n"))
    return st.tuples(rows, ends).map(lambda pair: pair[1].join(pair[0]))


_KEYS = (
    *("id", "image_id", "category_id", "file_name", "width", "height", "bbox", "iscrowd", "name"),
    *("segmentation", "images", "annotations", "categories", "counts", "size"),
)


def coco_files() -> st.SearchStrategy[bytes]:
    """COCO files, most of whose values are as they should be."""
    numbers = st.one_of(
        st.integers(-3, 30),
        st.sampled_from((10**19, -(10**400), 1e308, -1e308, 5e-324, float("nan"), float("inf"))),
        st.floats(-100, 200),
    )
    texts = st.one_of(
        st.sampled_from(("a.jpg", "b.jpg", "cat", "", "\ud800", "\0", "../x")), st.text(max_size=4)
    )
    leaves = st.one_of(st.none(), st.booleans(), numbers, texts)
    anything = st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=6),
            st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
        ),
        max_leaves=12,
    )

    def mostly(usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.integers(0, 9).flatmap(lambda n: anything if n == 0 else usual)

    def entry(**usual: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return mostly(st.fixed_dictionaries({}, optional={k: mostly(v) for k, v in usual.items()}))

    ids = st.integers(0, 3)
    sides = st.sampled_from((0, 60, 40, None))
    polygon = st.lists(st.integers(-9, 70), min_size=6, max_size=10)
    document = st.fixed_dictionaries(
        {
            "images": mostly(
                st.lists(entry(id=ids, file_name=texts, width=sides, height=sides), max_size=4)
            ),
            "annotations": mostly(
                st.lists(
                    entry(
                        id=ids,
                        image_id=ids,
                        category_id=ids,
                        bbox=st.lists(numbers, min_size=4, max_size=4),
                        iscrowd=st.sampled_from((0, 1, True)),
                        segmentation=st.lists(polygon, max_size=3),
                    ),
                    max_size=6,
                )
            ),
            "categories": mostly(
                st.lists(
                    st.tuples(ids, texts).map(lambda p: {"id": p[0], "name": f"{p[0]}{p[1]}"}),
                    min_size=1,
                    max_size=3,
                    unique_by=lambda category: category["id"],
                )
            ),
        }
    )
    return st.one_of(document, document, anything).map(lambda value: json.dumps(value).encode())


_TAGS = (
    *("annotation", "object", "name", "bndbox", "xmin", "ymin", "xmax", "ymax", "size", "width"),
    *("height", "source", "part", "difficult", "x"),
)


def voc_files() -> st.SearchStrategy[bytes]:
    """VOC files, and other elements that nest as they like."""
    numbers = st.one_of(
        st.integers(-5, 65).map(str),
        st.floats().map(repr),
        st.text(max_size=5),
        st.sampled_from(("1_0", "\u0661", "1e999", " 7 ", "&amp;", "&#x0;", "&x;", "<!--5-->6")),
    )

    def element(tag: str, inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return inner.map(lambda text: f"<{tag}>{text}</{tag}>")

    def joined(*parts: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        return st.tuples(*parts).map("".join)

    box = element(
        "bndbox", joined(*(element(t, numbers) for t in ("xmin", "ymin", "xmax", "ymax")))
    )
    names = st.one_of(st.sampled_from(("cat", "dog", "", " ")), st.text(max_size=5))
    thing = element("object", joined(element("name", names), box))
    anything = st.recursive(
        st.text(max_size=5),
        lambda inner: st.tuples(st.sampled_from(_TAGS), st.lists(inner, max_size=4)).map(
            lambda pair: f"<{pair[0]}>{''.join(pair[1])}</{pair[0]}>"
        ),
        max_leaves=15,
    )
    size = st.sampled_from(("", "<size><width>60</width><height>40</height></size>"))
    official = st.sampled_from(("", "<source><annotation>PASCAL VOC2007</annotation></source>"))
    things = st.lists(st.one_of(thing, thing, anything), max_size=4).map("".join)
    document = element("annotation", joined(size, official, things))
    starts = st.sampled_from(
        (
            "",
            "\ufeff",
            '<?xml version="1.0"?>',
            '<?xml version="1.0" encoding="utf-16"?>',
            "<!DOCTYPE a>",
        )
    )
    return joined(starts, st.one_of(document, document, anything)).map(
        lambda text: text.encode("utf-8", "surrogatepass")
    )


_YAML_KEYS = ("path", "train", "val", "test", "nc", "names", "download", "0", "1")


def yaml_files() -> st.SearchStrategy[bytes]:
    """data.yaml files."""
    odd = (
        "2001-13-01",
        "!!bool x",
        "!!int x",
        "!!timestamp x",
        "null",
        "*a",
        "&a [*a]",
        "~",
        "1e9",
    )
    places = st.sampled_from(
        ("images", ".", "../images", "nowhere", "/", '"\\0"', '"\\ud800"', "a.json")
    )
    leaves = st.one_of(
        places, st.sampled_from(odd), st.integers(-1, 3).map(str), st.text(max_size=5)
    )

    def nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        key = st.sampled_from(_YAML_KEYS)
        pairs = st.lists(st.tuples(key, inner).map(": ".join), max_size=3)
        return st.one_of(
            st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]"),
            pairs.map(lambda values: f"{{{', '.join(values)}}}"),
        )

    value = st.recursive(leaves, nested, max_leaves=8)
    names = st.sampled_from(("[a, b]", "{0: a, 1: b}", "[a]", "a"))
    usual = {"path": places, "train": places, "val": places, "names": names, "nc": st.just("2")}
    lines = [
        st.one_of(
            st.just(""), *[right.map(f"{key}: {{}}".format)] * 4, value.map(f"{key}: {{}}".format)
        )
        for key, right in usual.items()
    ]
    return st.tuples(*lines).map(lambda found: "\n".join(found).encode("utf-8", "surrogatepass"))
