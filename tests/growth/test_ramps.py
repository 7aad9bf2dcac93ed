import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gapjax.growth import (
    StepwiseBatch,
    constant_batch,
    format_batch_schedule,
    parse_batch_schedule,
    piecewise_batch,
    ramp_from_levanter,
    ramp_from_maxtext,
    ramp_from_megatron,
    ramp_from_olmo_core,
    ramp_to_levanter,
    ramp_to_maxtext,
    ramp_to_olmo_core,
)


@st.composite
def ramps(draw, largest=2**31, most=6):
    sizes = draw(st.lists(st.integers(1, largest), min_size=1, max_size=most, unique=True))
    gaps = draw(st.lists(st.integers(1, largest), min_size=len(sizes) - 1, max_size=len(sizes) - 1))
    boundaries = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    return StepwiseBatch(tuple(boundaries), tuple(sorted(sizes)))


@given(ramps(largest=5), st.integers(0, 40))
def test_examples_before_is_the_sum_of_the_batches(ramp, update):
    assert ramp.examples_before(update) == sum(map(ramp, range(update)))


@given(ramps(largest=2**40), st.integers(0, 2**60))
def test_updates_and_examples_convert_exactly_both_ways(ramp, number):
    assert ramp.update_at(ramp.examples_before(number)) == number
    update = ramp.update_at(number)
    assert ramp.examples_before(update) <= number < ramp.examples_before(update + 1)
    assert ramp.examples_before(update + 1) - ramp.examples_before(update) == ramp(update)


def test_past_2_to_the_53():
    ramp = StepwiseBatch((10**15,), (1000, 10**6))
    assert ramp.examples_before(10**15 + 1) == 10**18 + 10**6
    assert ramp.update_at(10**18 + 10**6 - 1) == 10**15
    assert ramp.update_at(10**18 - 1) == 10**15 - 1


def _in_force(pairs, updates):
    """Megatron's own loop: the batch of the last threshold at or below what was consumed."""
    consumed, sizes = 0, []
    for _ in range(updates):
        sizes.append(next(size for threshold, size in reversed(pairs) if threshold <= consumed))
        consumed += sizes[-1]
    return sizes


@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, 30)), max_size=6, unique_by=lambda p: p[0]
    ),
    st.integers(1, 30),
    st.sampled_from([None, 1, 7]),
)
def test_the_batch_in_force_is_that_of_the_last_threshold_consumed(rest, first, length):
    pairs = [(0, first), *sorted(rest)]
    text = ", ".join(f"{threshold * (length or 1)}:{size}" for threshold, size in pairs)
    ramp = parse_batch_schedule(text, sequence_length=length)
    assert [ramp(update) for update in range(100)] == _in_force(pairs, 100)
    assert parse_batch_schedule(format_batch_schedule(ramp)) == ramp


@given(ramps(), st.sampled_from([None, 1, 1000, 4096]))
def test_what_is_written_is_read_back(ramp, length):
    text = format_batch_schedule(ramp, sequence_length=length)
    assert parse_batch_schedule(text, sequence_length=length) == ramp


@pytest.mark.parametrize(
    "text",
    [
        "0:768 250B:1536 500B:3072 750B:6144",
        "0:16 2.4B:320 4.8B:624 7.2B:928 9.6B:1232 12B:1536",
        "0:384 200B:768 400B:1152",
    ],
)
def test_ramps_of_megatron(text):
    pairs = [entry.split(":") for entry in text.split()]
    ramp = parse_batch_schedule(text, sequence_length=4096)
    assert ramp.values == tuple(int(size) for _, size in pairs)
    for (threshold, _), offset, size in zip(pairs[1:], ramp.offsets[1:], ramp.values, strict=False):
        tokens = float(threshold.rstrip("B")) * 1e9
        assert 0 <= offset - tokens // 4096 < size
    assert parse_batch_schedule(text.replace(" ", ","), sequence_length=4096) == ramp
    assert parse_batch_schedule(text.lower(), sequence_length=4096) == ramp


def test_a_ramp_whose_thresholds_are_borders_is_written_as_it_was():
    text = "0:128 640K:512 2.56M:4096"
    assert format_batch_schedule(parse_batch_schedule("0:128 640k:512, 2.56M:4096")) == text
    assert format_batch_schedule(constant_batch(8)) == "0:8"
    assert parse_batch_schedule("0:1K").values == (1000,)
    # a border that was moved is written where it fell
    assert format_batch_schedule(parse_batch_schedule("0:10 25:20")) == "0:10 30:20"


def test_thresholds_within_one_update():
    assert parse_batch_schedule("0:100 10:200 20:300") == StepwiseBatch((1,), (100, 300))
    assert parse_batch_schedule("0:100 10:200 20:100") == constant_batch(100)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("768", "'768' is no THRESHOLD:BATCH pair"),
        ("10:768", "starts at 10 examples"),
        ("0:8 5X:16", "suffix 'X' in '5X:16' is not known; use K, M, B or T"),
        ("0:8 5KB:16", "suffix 'KB'"),
        ("0:8 -5:16", "'-5' in '-5:16' is no number"),
        ("0:8 1e3:16", "suffix 'e' |no number"),
        ("0:8 2.5:16", "is 2.5, which is no whole number"),
        ("0:0 5:16", "The batch size in '0:0' must be"),
        ("0:8 20:16 10:32", "Thresholds must rise.* 10 examples follows one of 20"),
        ("0:8 20:16 20:32", "Thresholds must rise"),
        ("0:8 5::16", "no number"),
        (768, "not 768"),
    ],
)
def test_bad_strings(text, message):
    with pytest.raises(ValueError, match=message):
        parse_batch_schedule(text)


@pytest.mark.parametrize("length", [0, -1, 2.5, "4096", True])
def test_bad_sequence_lengths(length):
    with pytest.raises(ValueError, match="must be a whole number of at least 1"):
        parse_batch_schedule("0:8 1K:16", sequence_length=length)


def test_thresholds_that_tokens_make_equal_do_not_rise():
    with pytest.raises(ValueError, match="Thresholds must rise"):
        parse_batch_schedule("0:8 100:16 120:32", sequence_length=64)


def test_levanter():
    # the example of its own tests: 32 until step 1000, 64 until step 100000, then 128
    steps = [
        {"start": 0, "value": 32},
        {"start": 1000, "value": 64},
        {"start": 100_000, "value": 128},
    ]
    ramp = ramp_from_levanter(steps)
    assert ramp.examples_before(999) == 999 * 32
    assert ramp.examples_before(1001) == 1000 * 32 + 64
    assert ramp.examples_before(100_000) == 1000 * 32 + 99_000 * 64
    assert ramp_to_levanter(ramp) == steps

    class ScheduleStep:
        start, value = 0, 32

    assert ramp_from_levanter([ScheduleStep()]) == constant_batch(32)
    # sizes need not rise to be described
    shrinking = ramp_from_levanter([{"start": 0, "value": 8192}, {"start": 18_500, "value": 7680}])
    assert shrinking.sizes() == (7680, 8192)


def test_the_old_ramp_of_megatron():
    # its own arithmetic, update by update
    start, increment, samples, last = 16, 8, 300, 56
    ramp = ramp_from_megatron(start, increment, samples, batch_size=last)
    consumed = 0
    for update in range(60):
        increments = (last - start) // increment
        expected = (
            last
            if consumed > samples
            else start + increment * int(consumed / (samples / increments))
        )
        assert ramp(update) == expected
        consumed += expected
    assert ramp_from_megatron(16, 8, 100, batch_size=16) == constant_batch(16)


def test_iterations_of_a_ramp_see_fewer_examples_than_of_its_last_batch():
    # 100 iterations: 20 of 8, then 80 of 16
    ramp = ramp_from_megatron(8, 8, 160, batch_size=16)
    assert (ramp.boundaries, ramp.values) == ((20,), (8, 16))
    assert ramp.examples_before(100) == 1440


def _maxtext(start, increment, end, samples, devices, updates):
    """Its manager: increments when the samples of a stage have been seen, and counts anew."""
    start, increment, end = (int(devices * x) for x in (start, increment, end))
    span, batch, seen, sizes = samples / ((end - start) // increment), start, 0, []
    for _ in range(updates):
        sizes.append(batch)
        seen += batch
        if seen >= span:
            batch, seen = min(batch + increment, end), 0
    return sizes


@pytest.mark.parametrize(
    ("start", "increment", "end", "samples", "devices"),
    [
        (4, 2, 8, 500, 1),
        (1, 1, 4, 60, 1),
        (2, 2, 8, 64, 4),
        (0.5, 0.25, 2, 1000, 8),
        (2, 1, 5, 7, 1),
    ],
)
def test_maxtext(start, increment, end, samples, devices):
    ramp = ramp_from_maxtext(
        per_device_batch_size=end,
        per_device_batch_size_start=start,
        per_device_batch_size_increment=increment,
        global_rampup_samples=samples,
        num_devices=devices,
    )
    expected = _maxtext(start, increment, end, samples, devices, 300)
    assert [ramp(update) for update in range(300)] == expected
    settings = ramp_to_maxtext(ramp, num_devices=devices)
    assert settings.pop("enable_rampup_batch_size")
    assert settings["per_device_batch_size_start"] == start
    assert ramp_from_maxtext(**settings, num_devices=devices) == ramp


def test_maxtext_of_a_constant_batch():
    assert ramp_to_maxtext(constant_batch(8), num_devices=4) == {
        "enable_rampup_batch_size": False,
        "per_device_batch_size": 2.0,
    }


def _olmo_core(sizes, schedule, unit, length, updates):
    """Its callback, before each batch."""
    batch, seen, used = sizes[0], 0, []
    for update in range(updates):
        clock = update if unit == "steps" else seen * length
        target = next(
            size for size, at in reversed(list(zip(sizes, schedule, strict=True))) if clock >= at
        )
        if target < batch or (target > batch and (seen // batch) % (target // batch) == 0):
            batch = target
        used.append(batch)
        seen += batch
    return used


@settings(max_examples=200)
@given(
    st.lists(st.sampled_from([2, 4, 0.5]), max_size=4),
    st.lists(st.integers(1, 40), min_size=4, max_size=4),
    st.sampled_from(["tokens", "steps"]),
    st.sampled_from([1, 16]),
)
def test_olmo_core(factors, gaps, unit, length):
    sizes = [16]
    for factor in factors:
        sizes.append(int(sizes[-1] * factor))
    scale = length * 10 if unit == "tokens" else 1
    schedule = [scale * sum(gaps[:i]) for i in range(len(sizes))]
    if math.prod(factors) * 16 < 1 or min(sizes) < 1:
        return
    expected = _olmo_core(sizes, schedule, unit, length, 300)
    ramp = ramp_from_olmo_core(
        [size * length for size in sizes], schedule, unit=unit, sequence_length=length
    )
    assert [ramp(update) for update in range(300)] == expected


def test_olmo_core_there_and_back():
    ramp = piecewise_batch(1024, {40_000: 2048, 80_000: 4096})
    arguments = ramp_to_olmo_core(ramp, sequence_length=4096)
    assert arguments["schedule"] == [0, 167_772_160_000, 503_316_480_000]
    assert ramp_from_olmo_core(**arguments, sequence_length=4096) == ramp


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ramp_from_levanter([]), "start must begin with 0, not be empty"),
        (lambda: ramp_from_levanter([{"start": 5, "value": 8}]), "begin with 0, not 5"),
        (lambda: ramp_from_levanter([{"start": 0}]), "has no value"),
        (
            lambda: ramp_from_levanter([{"start": 0, "value": 8}, {"start": 0, "value": 16}]),
            "start must rise, but 0 follows 0",
        ),
        (lambda: ramp_from_megatron(8, 3, 100, batch_size=16), "Steps of 3 do not lead .*; 14"),
        (lambda: ramp_from_megatron(8, 8, 0, batch_size=16), "samples must be"),
        (lambda: ramp_from_megatron(32, 8, 10, batch_size=16), "from a batch of 32 to one of 16"),
        (
            lambda: ramp_from_maxtext(
                per_device_batch_size=2,
                per_device_batch_size_start=0.3,
                per_device_batch_size_increment=1,
                global_rampup_samples=10,
                num_devices=4,
            ),
            "per_device_batch_size_start=0.3 on 4 devices is no whole number",
        ),
        (
            lambda: ramp_to_maxtext(piecewise_batch(8, {5: 16, 9: 64}), num_devices=1),
            "no such ramp",
        ),
        (
            lambda: ramp_to_maxtext(piecewise_batch(8, {50: 16, 55: 24}), num_devices=1),
            "no such ramp",
        ),
        (lambda: ramp_from_olmo_core([8, 16], [0, 10]), "need the sequence_length"),
        (lambda: ramp_from_olmo_core([8, 12], [0, 10], unit="steps"), "multiple or a divisor"),
        (lambda: ramp_from_olmo_core([8, 8], [0, 10], unit="steps"), "multiple or a divisor"),
        (lambda: ramp_from_olmo_core([8, 16], [0], unit="steps"), "need as many durations"),
        (lambda: ramp_from_olmo_core([8, 16], [5, 9], unit="steps"), "begin with 0, not 5"),
        (lambda: ramp_from_olmo_core([100], [0], sequence_length=64), "no multiple of"),
        (lambda: ramp_from_olmo_core([8], [0], unit="epochs"), "unit must be one of"),
        (
            lambda: ramp_to_olmo_core(piecewise_batch(8, {3: 16}), sequence_length=64),
            "would make",
        ),
        (lambda: ramp_to_levanter(lambda update: 8), "must be a StepwiseBatch"),
        (lambda: constant_batch(8).examples_before(-1), "update must be"),
        (lambda: constant_batch(8).update_at(1.5), "examples must be"),
        (lambda: StepwiseBatch((5, 5), (8, 16, 32)), "Boundaries must rise, but 5 follows 5"),
        (lambda: StepwiseBatch((5,), (8,)), "1 boundaries need 2 sizes, not 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_thirds_of_an_example_a_device():
    ramp = StepwiseBatch((63, 105), (4, 6, 8))
    settings = ramp_to_maxtext(ramp, num_devices=3)
    settings.pop("enable_rampup_batch_size")
    assert ramp_from_maxtext(**settings, num_devices=3).values == ramp.values
