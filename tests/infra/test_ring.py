"""Wrong addresses of shards are one sentence, when the settings are read or the file is."""

from pathlib import Path

import pytest

from infra.ring import Ring, read_addresses, read_ring
from infra.settings import Settings, SettingsError, read_settings

A, B = "http://a:1", "http://b:1"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (f"1/2={A}", "the address of shard 2/2 is missing"),
        (f"1/2={A},2/3={B}", "the entries are of rings of 2 and 3 shards; all must be of one"),
        (f"1/2={A},1/2={B}", "shard 1/2 is there twice; | separates its addresses"),
        (f"1/2={A},2/2={A}", "the address http://a:1 is there twice"),
        (f"1/2={A},2/2=b:1", "is written as http://host:port, not 'b:1'"),
        (f"1/1={A}/predict", "is written as http://host:port"),
        ("1/1=http://me:secret@a:1", "is written as http://host:port"),
        ("1/1=http://a:port", "is written as http://host:port"),
        ("1/1=", "is written as http://host:port"),
        (f"3/2={A}", "a shard is written as 2/4"),
        (f"1/2={A},2/2 {B}", "are written as 1/2=http://host:port, not '2/2 http://b:1'"),
        (f"{A}=1/2", "a shard is written as 2/4"),
    ],
)
def test_wrong_addresses_are_one_sentence(
    text: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDCAST_SHARD_ADDRESSES", text)
    with pytest.raises(SettingsError) as refused:
        read_settings()
    assert str(refused.value).startswith("the setting GRIDCAST_SHARD_ADDRESSES is wrong: ")
    assert why in str(refused.value)
    (tmp_path / "ring").write_text(text.replace(",", "\n"))
    with pytest.raises(SettingsError) as refused:
        read_ring(Settings(shard_addresses=str(tmp_path / "ring")))
    assert f"the file {tmp_path / 'ring'}: " in str(refused.value)
    assert why in str(refused.value)


def test_addresses_are_read_from_a_file_of_lines(tmp_path: Path) -> None:
    (tmp_path / "ring").write_text(f"2/2={B}/\n\n1/2={A} | http://a2:1\n")
    ring = Ring.parse(
        read_addresses(Settings(shard_addresses=str(tmp_path / "ring"))), plain_text=True
    )
    assert ring.addresses == ((A, "http://a2:1"), (B,))
    assert list(ring.every_address) == [A, B, "http://a2:1"]


def test_no_addresses_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="must say where the shards answer, as 1/2=http"):
        read_addresses(Settings())
    with pytest.raises(SettingsError, match=r"ring cannot be read: No such file"):
        read_addresses(Settings(shard_addresses=str(tmp_path / "ring")))


def test_no_token_crosses_the_network_in_plain_text() -> None:
    text = "1/2=http://127.0.0.2:1|https://a,2/2=http://b:1"
    with pytest.raises(SettingsError, match="to http://b:1 in plain text: let a proxy end TLS"):
        Ring.parse(text)
    assert Ring.parse(text, plain_text=True).count == 2
    assert Ring.parse(text.replace("http://b:1", "https://b")).count == 2
