"""The store of adapters: round trips, damage, and what a reader sees while a writer writes."""

import hashlib
import json

import pytest
import torch
from safetensors import safe_open

from trainables import checksums
from trainables.adapter_files import header_bytes
from trainables.adapters import STATE, WEIGHTS, AdapterStore, read_adapter
from trainables.errors import AdapterError
from trainables.lora import Adapter
from trainables.pack import TrainingState

KEY = "0123456789abcdef"


@pytest.fixture
def store(tmp_path):
    return AdapterStore(tmp_path)


def state_at(epoch, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layers = [{"down.to_q": (torch.randn(6, 2, generator=generator), torch.randn(2, 5, generator=generator))} for _ in range(3)]
    return TrainingState(Adapter(2, 3.5, layers[0]), layers[1], layers[2], epoch=epoch, step=epoch * 76)


def test_a_state_comes_back_as_it_was(store):
    state = state_at(3)
    store.save(KEY, state)
    loaded = store.load_state(KEY, 3)
    assert (loaded.epoch, loaded.step, loaded.adapter.rank, loaded.adapter.alpha) == (3, 228, 2, 3.5)
    for ours, theirs in ((state.adapter.layers, loaded.adapter.layers), (state.first_moment, loaded.first_moment), (state.second_moment, loaded.second_moment)):
        assert all(torch.equal(x, y) for x, y in zip(ours["down.to_q"], theirs["down.to_q"], strict=True))


def test_convolutions_and_the_text_encoder_are_stored_in_pefts_layout_and_names(store):
    generator = torch.Generator().manual_seed(0)
    pair = lambda d_in, d_out: (torch.randn(d_in, 2, generator=generator), torch.randn(2, d_out, generator=generator))  # noqa: E731
    layers = {"down.to_q": pair(6, 5), "down.conv1": pair(4 * 3 * 3, 7), "down.proj_in": pair(4, 8)}
    layers["text_encoder.encoder.layers.0.self_attn.q_proj"] = pair(6, 6)
    adapter = Adapter(2, 3.5, layers, kernels={"down.conv1": (3, 3), "down.proj_in": (1, 1)})
    moments = [{path: (a * factor, b * factor) for path, (a, b) in layers.items()} for factor in (2, 3)]
    folder = store.save(KEY, TrainingState(adapter, *moments, 1, 1))
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    assert shapes["unet.down.conv1.lora_A.weight"] == (2, 4, 3, 3) and shapes["unet.down.conv1.lora_B.weight"] == (7, 2, 1, 1)
    assert shapes["unet.down.proj_in.lora_A.weight"] == (2, 4, 1, 1) and shapes["unet.down.to_q.lora_A.weight"] == (2, 6)
    assert shapes["text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_B.weight"] == (6, 2)
    loaded = store.load_state(KEY, 1)
    assert loaded.adapter.kernels == adapter.kernels
    for found, saved in zip((loaded.adapter.layers, loaded.first_moment, loaded.second_moment), (layers, *moments), strict=True):
        assert found.keys() == saved.keys()
        assert all(torch.equal(x, y) for path in saved for x, y in zip(found[path], saved[path], strict=True))


def test_the_longest_state_is_found_up_to_the_epoch_asked_for(store):
    for epoch in (2, 4, 8):
        store.save(KEY, state_at(epoch), resumable=epoch != 8)
    assert store.epochs(KEY) == [2, 4, 8]
    assert [store.longest_state_epoch(KEY, e) for e in (1, 3, 4, 100)] == [None, 2, 4, 4]
    assert store.epochs("unknown") == []


def test_writing_twice_is_writing_once_and_a_state_can_be_added_later(store):
    folder = store.save(KEY, state_at(2), resumable=False)
    weights = (folder / WEIGHTS).read_bytes()
    store.save(KEY, state_at(2), resumable=True)
    assert (folder / WEIGHTS).read_bytes() == weights and (folder / STATE).exists()
    store.save(KEY, state_at(2, seed=1))  # a twin's copy does not replace it
    assert (folder / WEIGHTS).read_bytes() == weights
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_dropping_states_keeps_the_adapters(store):
    store.save(KEY, state_at(2))
    store.drop_states(KEY)
    assert store.epochs(KEY) == [2] and store.longest_state_epoch(KEY, 9) is None


def test_a_writer_that_died_leaves_nothing_that_readers_see(store, monkeypatch):
    monkeypatch.setattr("trainables.adapters._write_moments", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(AdapterError, match="disk full"):
        store.save(KEY, state_at(2))
    assert store.epochs(KEY) == [] and list((store.root / KEY).iterdir()) == []


def test_a_missing_and_a_damaged_file_each_give_one_line(store):
    with pytest.raises(AdapterError, match="epoch-00007.*Launch"):
        store.load_adapter(KEY, 7)
    folder = store.save(KEY, state_at(2))
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:50])
    with pytest.raises(AdapterError, match="intact safetensors.*epoch-00002"):
        store.load_adapter(KEY, 2)


def test_a_pickle_is_never_opened(tmp_path):
    path = tmp_path / WEIGHTS
    torch.save({"x": torch.zeros(1)}, path)
    with pytest.raises(AdapterError, match="safetensors"):
        read_adapter(path)


def flipped(content: bytes, at: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    return bytes(changed)


def without_checksum(content: bytes) -> bytes:
    """The file as it was written before there were checksums."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"][checksums.NAME]
    return header_bytes(header) + content[8 + length :]


@pytest.mark.parametrize("name", [WEIGHTS, STATE])
def test_every_flipped_bit_of_an_adapter_or_a_state_is_noticed_or_changes_nothing(store, name):
    state = state_at(2)
    file = store.save(KEY, state) / name
    intact = file.read_bytes()
    mark = range(at := intact.index(checksums._MARK.encode()), at + len(checksums._MARK))
    bits = range(0, 8 * len(intact), 5)  # 5 and 8 have no common factor: each bit of a byte has its turn
    unnoticed = set()
    for at, bit in (divmod(i, 8) for i in bits):
        file.write_bytes(flipped(intact, at, bit))
        try:
            loaded = store.load_state(KEY, 2)
        except AdapterError as error:
            assert "\n" not in str(error) and str(file) in str(error)
        else:
            unnoticed.add(at)
            assert torch.equal(loaded.adapter.layers["down.to_q"][0], state.adapter.layers["down.to_q"][0])
            assert torch.equal(loaded.first_moment["down.to_q"][1], state.first_moment["down.to_q"][1]) and loaded.step == 152
    assert unnoticed <= {*mark, *range(intact.index(checksums.NAME.encode()), mark.start)}


def test_the_checksum_is_the_sha256_of_the_file_with_zeros_in_its_place(store):
    content = (store.save(KEY, state_at(2)) / WEIGHTS).read_bytes()
    with safe_open(store.root / KEY / "epoch-00002" / WEIGHTS, framework="pt") as file:
        digits = file.metadata()[checksums.NAME].removeprefix(checksums._MARK)
    assert content.count(digits.encode()) == 1
    assert hashlib.sha256(content.replace(digits.encode(), b"0" * 64)).hexdigest() == digits


def test_an_adapter_of_before_there_were_checksums_is_read(store):
    state = state_at(2)
    folder = store.save(KEY, state)
    for name in (WEIGHTS, STATE):
        (folder / name).write_bytes(without_checksum((folder / name).read_bytes()))
    loaded = store.load_state(KEY, 2)
    assert torch.equal(loaded.adapter.layers["down.to_q"][0], state.adapter.layers["down.to_q"][0]) and loaded.epoch == 2


@pytest.mark.parametrize("lacking", ["epoch", "step"])
def test_a_state_that_lacks_something_is_one_line(store, lacking):
    file = store.save(KEY, state_at(2)) / STATE
    content = without_checksum(file.read_bytes())
    file.write_bytes(content.replace(f'"{lacking}":'.encode(), b'"%s":' % (b"x" * len(lacking))))
    with pytest.raises(AdapterError, match=f"state.safetensors is damaged.*{lacking}"):
        store.load_state(KEY, 2)
