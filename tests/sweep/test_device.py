"""The real device on a tiny model: what the worker relies on, without Ray."""

import dataclasses
import json
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from sweep.causes import Cause
from sweep.device import PackDevice
from sweep.errors import ContentChanged, DeviceLostError
from sweep.keys import Keys
from sweep.messages import EvaluationOrder, TrainingOrder
from tests.trainables.closeness import assert_same_layers
from sweep.study import Study
from trainables.config import EvalConfig, TrainConfig, pack_signature
from trainables.errors import ConfigError
from trainables.pack import Pack
from trainables.subject import load_pixels, load_subject


@pytest.fixture
def config(model, subject):
    return TrainConfig(train_model=model, subject=subject, caption="v1", rank=4, alpha=4)


@pytest.fixture
def new_device(tmp_path):
    def new(**changes):
        device = PackDevice(device="cpu", n_threads=1, adapters=tmp_path / "adapters", latents=tmp_path / "latents", **{"n_slots": 4, **changes})
        device.open()
        return device

    return new


def order(key, config, *epochs):
    return TrainingOrder(key, config, epochs, None)


def train_to(device, epoch, *, save=()):
    """Advance until every training stands at `epoch`; the adapters of `save` epochs are stored."""
    reports = {}
    for _ in range(200):
        if not any(reports.get(key) is None or reports[key].epoch < epoch for key in device.held):
            return reports
        for report in device.advance():
            reports[report.key] = report
            if report.epoch in save:
                device.save(report.key)
    raise AssertionError(f"not at epoch {epoch} after 200 turns: {reports}")


def test_a_training_is_saved_scored_and_continued_from_its_last_state(new_device, config, model, subject):
    device = new_device()
    assert device.start(order("k", config, 1, 2)).epoch == 0
    train_to(device, 2, save=(1, 2))
    final = device._packs[0].adapter("k")
    evaluation = EvalConfig(infer_model=model, steps=2, images_per_prompt=1)
    control, scored = device.evaluate([EvaluationOrder("c", None, 0, evaluation, subject), EvaluationOrder("e", "k", 2, evaluation, subject)])
    assert scored.error is None and scored.images.shape == (5, 64, 64, 3) and scored.row["n_images"] == 5
    assert scored.values["lpips"] != control.values["lpips"] and scored.row["device"] and scored.row["versions"]["torch"]

    device.stop("k")  # gives its lease back, as the end of its process would

    # Another process: the epochs that are stored are read, and only the third is trained.
    later = new_device()
    nothing_to_do = later.start(order("k", config, 1, 2))
    assert (nothing_to_do.epoch, nothing_to_do.stored, later.held) == (2, (1, 2), ())
    assert later.start(order("k", config, 1, 2, 3)).epoch == 2
    assert [r.epoch for r in train_to(later, 3).values()] == [3]
    alone = new_device()
    alone.start(order("other-key-same-config", config, 3))
    train_to(alone, 2)
    assert all(torch.equal(a, alone._packs[0].adapter("other-key-same-config").layers[p][0]) for p, (a, _) in final.layers.items())


def test_arrivals_wait_for_the_boundary_and_then_run_beside_the_others(new_device, config):
    device = new_device()
    device.start(order("a", config, 2))
    device.advance()  # one step: the speed is not known yet
    device.start(order("b", dataclasses.replace(config, train_seed=1), 2))
    assert device.held == ("a", "b") and device._packs[0].keys == ["a"]
    reports = train_to(device, 1)
    assert device.held == ("a", "b") and reports["b"].epoch >= 1


def test_what_cannot_share_a_pack_takes_turns(new_device, config):
    device = new_device()
    device.start(order("a", config, 1))
    device.start(order("b", dataclasses.replace(config, batch=1), 1))
    assert len(device._packs) == 2
    reports = train_to(device, 1)
    assert {r.epoch for r in reports.values()} >= {1} and set(reports) == {"a", "b"}


def test_another_optimizer_and_class_images_take_turns_and_a_stored_prodigy_goes_on(new_device, config, subject):
    device = new_device()
    device.start(order("a", dataclasses.replace(config, shuffle_tags=True, tag_dropout=0.5, keep_tags=0), 1))
    device.start(order("b", dataclasses.replace(config, optimizer="prodigy", learning_rate=1.0), 1, 2))
    device.start(order("c", dataclasses.replace(config, prior_images=subject, prior_prompt="a woman"), 1))
    assert len(device._packs) == 3
    train_to(device, 1, save=(1,))
    device.stop("b")
    later = new_device()
    assert later.start(order("b", dataclasses.replace(config, optimizer="prodigy", learning_rate=1.0), 1, 2)).epoch == 1
    assert train_to(later, 2)["b"].error is None and later._packs[0].state("b").prodigy.n_steps == 4


def test_a_pack_that_runs_out_of_memory_is_halved_and_nothing_is_lost(new_device, config, monkeypatch):
    step = Pack._step

    def hungry(pack, draws, k):
        if len(pack.keys) > 2:
            raise torch.OutOfMemoryError("a card with room for two")
        return step(pack, draws, k)

    monkeypatch.setattr(Pack, "_step", hungry)
    device = new_device()
    for seed in range(4):
        device.start(order(f"k{seed}", dataclasses.replace(config, train_seed=seed), 2))
    reports = train_to(device, 2)
    assert sorted(reports) == ["k0", "k1", "k2", "k3"] and [len(pack.keys) for pack in device._packs] == [2, 2]
    halved = next(pack for pack in device._packs if "k3" in pack.keys).adapter("k3")
    monkeypatch.undo()
    device.stop("k3")
    roomy = new_device()
    roomy.start(order("k3", dataclasses.replace(config, train_seed=3), 2))
    train_to(roomy, 2)
    assert_same_layers(halved.layers, roomy._packs[0].adapter("k3").layers)


def test_what_a_step_without_room_had_computed_is_gone_before_the_halves_move_in(new_device, config, monkeypatch):
    """Within `except` the traceback would still hold the graph: emptying the cache would free nothing."""
    device, watched, alive = new_device(), [], []
    for seed in range(4):
        device.start(order(f"k{seed}", dataclasses.replace(config, train_seed=seed), 1))
    (pack,) = device._packs

    def last_layer(module, inputs, output):
        if len(pack.keys) == 4:
            raise torch.OutOfMemoryError("no room for the last layer")

    hooks = [pack.parts.unet.conv_out.register_forward_hook(last_layer)]
    for module in pack.parts.unet.modules():
        watch = lambda module, inputs, output: watched.append(weakref.ref(output)) if isinstance(output, torch.Tensor) else None
        hooks.append(module.register_forward_hook(watch))
    real = Pack.add

    def watching_add(self, *arguments, **options):
        alive.append(sum(reference() is not None for reference in watched))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Pack, "add", watching_add)
    reports = device.advance()
    for hook in hooks:
        hook.remove()
    assert len(watched) > 20 and alive == [0, 0, 0, 0]
    assert reports == [] and [len(pack.keys) for pack in device._packs] == [2, 2]


def test_a_half_that_has_no_room_either_is_lost_and_not_failed(new_device, config, monkeypatch):
    device, real = new_device(), Pack.add
    for seed in range(4):
        device.start(order(f"k{seed}", dataclasses.replace(config, train_seed=seed), 1))

    def add(pack, key, *arguments, **options):
        if key == "k3":
            raise torch.OutOfMemoryError("no room for k3")
        return real(pack, key, *arguments, **options)

    monkeypatch.setattr(Pack, "_step", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no room")))
    monkeypatch.setattr(Pack, "add", add)
    (report,) = device.advance()
    assert (report.key, report.cause) == ("k3", Cause.MEMORY) and "k3" not in device.held
    assert [pack.keys for pack in device._packs] == [["k0", "k1"], ["k2"]]


@pytest.mark.parametrize("text", ["CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "GET was unable to find an engine to execute this computation"])
def test_what_libraries_say_of_short_memory_is_no_configurations_fault(new_device, config, monkeypatch, text):
    step = Pack._step

    def hungry(pack, draws, k):
        if len(pack.keys) > 1:
            raise RuntimeError(f"{text} (and more)")
        return step(pack, draws, k)

    monkeypatch.setattr(Pack, "_step", hungry)
    device = new_device()
    for seed in range(2):
        device.start(order(f"k{seed}", dataclasses.replace(config, train_seed=seed), 1))
    reports = train_to(device, 1)
    assert sorted(reports) == ["k0", "k1"] and not any(report.error for report in reports.values())


def test_a_pack_that_fails_is_told_of_and_the_others_go_on(new_device, config, monkeypatch):
    step = Pack._step

    def breaking(pack, draws, k):
        if pack.signature == pack_signature(config):
            raise torch.OutOfMemoryError("no room at all")
        if pack._slots[0].config.batch == 3:
            raise RuntimeError("shapes do not fit\nsecond line")
        return step(pack, draws, k)

    monkeypatch.setattr(Pack, "_step", breaking)
    device = new_device()
    device.start(order("alone", config, 1))
    device.start(order("wrong", dataclasses.replace(config, batch=3), 1))
    device.start(order("fine", dataclasses.replace(config, batch=1), 1))
    reasons, lost = {}, {}
    while len(device.held) > 1:
        for report in device.advance():
            if report.error:
                (lost if report.is_lost else reasons)[report.key] = report.error
    assert lost.keys() == {"alone"} and "must fit the memory" in lost["alone"] and "smaller batch" in lost["alone"]
    assert reasons["wrong"] == "RuntimeError: shapes do not fit"
    assert device.held == ("fine",) and train_to(device, 1)["fine"].epoch >= 1


def test_a_training_that_cannot_be_let_in_fails_alone(new_device, config, monkeypatch):
    add = Pack.add

    def picky(pack, key, *rest, **named):
        if key == "late":
            raise RuntimeError("no such layer")
        add(pack, key, *rest, **named)

    monkeypatch.setattr(Pack, "add", picky)
    device = new_device()
    device.start(order("early", config, 2))
    device.advance()  # between two boundaries: who comes now waits
    device.start(order("late", dataclasses.replace(config, train_seed=1), 2))
    reports = []
    while "late" in device.held:
        reports += device.advance()
    assert [(r.key, r.error) for r in reports if r.error] == [("late", "RuntimeError: no such layer")]
    assert train_to(device, 2)["early"].error is None


def test_an_adapter_that_cannot_be_read_loses_its_evaluation_alone(new_device, config, model, subject):
    device = new_device()
    evaluation = EvalConfig(infer_model=model, steps=1, images_per_prompt=1)
    orders = [EvaluationOrder("gone", "no-such-training", 1, evaluation, subject), EvaluationOrder("control", None, 0, evaluation, subject)]
    found = {image_set.key: image_set for image_set in device.evaluate(orders)}
    assert "must be stored" in found["gone"].error and found["gone"].cause is Cause.LOST
    assert found["control"].cause is found["control"].error is None and found["control"].images is not None


def test_a_damaged_state_is_passed_over_for_the_one_before(new_device, config, tmp_path):
    device = new_device()
    device.start(order("k", config, 1, 2, 3))
    train_to(device, 2, save=(1, 2))
    wanted = train_to(device, 3)["k"].mean_loss
    device.stop("k")
    (tmp_path / "adapters" / "k" / "epoch-00002" / "state.safetensors").write_bytes(b"half of it")
    again = new_device()
    assert again.start(order("k", config, 3)).epoch == 1
    assert train_to(again, 3)["k"].mean_loss == pytest.approx(wanted, abs=1e-6)


def test_a_device_that_answers_no_more_ends_its_worker_and_blames_no_training(new_device, config, monkeypatch):
    def gone(pack, draws, k):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Pack, "_step", gone)
    device = new_device()
    device.start(order("k", config, 1))
    with pytest.raises(DeviceLostError, match="answers no more: CUDA error: an illegal"):
        device.advance()


def test_a_training_that_cannot_start_leaves_no_trace(new_device, config):
    device = new_device()
    with pytest.raises(ConfigError, match="rank.*999"):
        device.start(order("a", dataclasses.replace(config, rank=999), 1))
    assert device.held == ()


def test_a_diverged_training_is_reported_and_gone(new_device, config):
    device = new_device()
    device.start(order("wild", dataclasses.replace(config, learning_rate=1e30), 2))
    device.start(order("calm", config, 2))
    reports = []
    while "wild" in device.held:
        reports += device.advance()
    assert [r.key for r in reports if r.cause is Cause.CONFIGURATION] == ["wild"] and device.held == ("calm",)


def test_the_size_of_a_pack_is_measured_once_and_kept(new_device, config, tmp_path, monkeypatch):
    file = tmp_path / "study" / "pack.json"
    measured = new_device(n_slots=None, probe_with=config, probe_file=file)
    kept = json.loads(file.read_text())
    assert kept["n_slots"] == measured.n_slots and "1" in kept["seconds_per_adapter_step"]
    monkeypatch.setattr("sweep.pack_size.probe_pack_size", lambda *_, **__: pytest.fail("it was measured before"))
    assert new_device(n_slots=None, probe_with=config, probe_file=file).n_slots == measured.n_slots


@pytest.mark.parametrize("damaged", [True, False])
def test_a_size_that_cannot_be_read_or_kept_is_measured_and_ends_no_worker(new_device, config, tmp_path, monkeypatch, damaged):
    probe = SimpleNamespace(best=3, seconds_per_adapter_step={1: 0.5, 3: 0.25})
    monkeypatch.setattr("sweep.pack_size.probe_pack_size", lambda *_, **__: probe)
    file = tmp_path / "pack.json"
    if damaged:
        file.write_text('{"device"')
    else:
        file.mkdir()
    assert new_device(n_slots=None, probe_with=config, probe_file=file).n_slots == 3
    assert not damaged or json.loads(file.read_text())["n_slots"] == 3


def test_of_two_devices_on_one_storage_one_trains_a_key_and_the_other_reads_it(new_device, config):
    one, other = new_device(), new_device()
    one.start(order("k", config, 1, 2))
    other.start(order("k", config, 1, 2))
    assert other.held == ("k",) and other.advance() == [] and other._packs == []
    train_to(one, 1, save=(1,))
    assert [r.stored for r in other.advance()] == [(1,)]
    one.stop("k")  # its study was interrupted: the other goes on from the first epoch
    reports = train_to(other, 2, save=(2,))
    assert reports["k"].epoch == 2 and other._store.epochs("k") == [1, 2]


def _change_image(folder):
    Image.fromarray(np.full((64, 64, 3), 7, np.uint8)).save(folder / "0.png")


def _change_trigger(folder):
    (folder / "subject.json").write_text('{"trigger": "sks"}')


def _change_caption(folder):
    (folder / "0.txt").write_text("J3NN13, frown")


@pytest.mark.parametrize(("change", "says"), [(_change_image, "images of"), (_change_trigger, "captions v1 of"), (_change_caption, "captions v2 of")])
def test_what_changed_since_the_launch_is_neither_trained_nor_scored_under_its_old_key(new_device, config, model, subject, tmp_path, change, says):
    folder = Path(shutil.copytree(subject, tmp_path / "copy"))
    for i in range(4):
        (folder / f"{i}.txt").write_text("J3NN13, smile")
    content = Keys(Study(subject=str(folder), model=model, fixed={"caption": "v1"})).content_digests()
    changed, evaluation = dataclasses.replace(config, subject=str(folder)), EvalConfig(infer_model=model, steps=2, images_per_prompt=1)
    control = EvaluationOrder("c", None, 0, evaluation, str(folder))
    unchanged = new_device(content=content)
    unchanged.start(order("k", changed, 1))
    assert not [report for report in unchanged.advance() if report.error]
    assert unchanged.evaluate([control])[0].error is None

    change(folder)
    device = new_device(content=content)
    device.start(order("other", changed, 1))
    (report,) = device.advance()
    (scored,) = device.evaluate([control])
    for one in (report, scored):
        assert f"the {says} {folder} changed while it runs" in one.error and "\n" not in one.error and one.cause is Cause.LOST
    assert not device.held


def test_a_model_that_changed_since_the_launch_is_not_used(new_device, config, model, subject, tmp_path):
    copy = str(shutil.copytree(model, tmp_path / "model"))
    content = Keys(Study(subject=subject, model=copy, fixed={"caption": "v1"})).content_digests()
    (Path(copy) / "scheduler" / "scheduler_config.json").write_text((Path(copy) / "scheduler" / "scheduler_config.json").read_text() + "\n")
    device = new_device(content=content)
    with pytest.raises(ContentChanged, match=f"model {copy} changed"):
        device.start(order("k", dataclasses.replace(config, train_model=copy), 1))
    (scored,) = device.evaluate([EvaluationOrder("c", None, 0, EvalConfig(infer_model=copy, steps=2), subject)])
    assert f"model {copy} changed" in scored.error and scored.cause is Cause.LOST


def test_an_image_that_changes_after_its_digest_was_made_is_not_read(subject, tmp_path):
    folder = Path(shutil.copytree(subject, tmp_path / "copy"))
    read = load_subject(folder)
    digests = read.reference_digest, read.training_digest("v1")
    _change_image(folder)
    assert (read.reference_digest, read.training_digest("v1")) == digests
    with pytest.raises(ContentChanged, match="0.png did"):
        load_pixels(read.train, 64)
