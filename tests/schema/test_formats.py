"""A format's name is parsed once: backend, bits and method, and back."""

from __future__ import annotations

import pytest

from bitzones.schema.formats import REFERENCE_NAMES, Format, format_bits, is_calibrated


@pytest.mark.parametrize(
    ("name", "bits", "method", "stock"),
    [
        ("qint8", 8, "absmax", "qint8"),
        ("qint4", 4, "max", "qint4"),
        ("qint4:hqq", 4, "hqq", "qint4:hqq"),
        ("qint4:gptq", 4, "gptq", "qint4:hqq"),
        ("qint2", 2, "max", "qint2"),
        ("qint2:hqq", 2, "hqq", "qint2:hqq"),
        ("qint2:gptq", 2, "gptq", "qint2:hqq"),
    ],
)
def test_a_name_says_bits_and_method_and_comes_back(name: str, bits: int, method: str, stock: str) -> None:
    found = Format.of(name)
    assert (found.backend, found.bits, found.method, found.name, found.stock.name) == ("quanto", bits, method, name, stock)
    assert (format_bits(name), is_calibrated(name)) == (bits, method == "gptq")


@pytest.mark.parametrize("name", REFERENCE_NAMES.values())
def test_the_reference_is_a_format_too(name: str) -> None:
    found = Format.of(name)
    assert (found.backend, found.method, found.name, found.bits) == ("reference", "dense", name, {"f32": 32}.get(name, 16))
    assert found.stock == found
    assert not is_calibrated(name)


def test_the_default_method_is_not_named() -> None:
    assert Format.of("qint4:max") == Format.of("qint4")


@pytest.mark.parametrize("name", ["", "qint3", "qint8:hqq", "qint4:", "QINT4", "qint4:awq", "xqint4", "qint4 "])
def test_what_is_no_format_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match="allowed: qint8, qint4, qint2"):
        Format.of(name)
    assert not is_calibrated(name)
