"""Tests of the comparison's own parts, none of which measures anything: `python3 -m unittest discover benches/peers`."""

import importlib.machinery
import importlib.util
import json
import unittest
from pathlib import Path
from unittest import mock
from xml.dom import minidom

HERE = Path(__file__).resolve().parent


def loaded(name):
    loader = importlib.machinery.SourceFileLoader(name.replace(".", "_"), str(HERE / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    with mock.patch("sys.dont_write_bytecode", True):
        loader.exec_module(module)
    return module


RUN, MEASURE = loaded("run"), loaded("measure.py")

BENCH = """open (guest cached): 50.0 ms

what                                                 best        p50        p90   goal
start to first result, fresh interpreter          1.11 ms    1.21 ms    1.29 ms   <= 1.5 ms
the same with teardown                            1.17 ms    1.35 ms    1.63 ms
the same, one after another without a pause       1.10 ms    1.21 ms    2.74 ms
step in a live session                           142.0 us   146.0 us   158.0 us
nested call with arguments, gate excluded         22.7 us    22.8 us    22.9 us

CPU                                 guest      python3    ratio           fuel
fib(24)                          13.30 ms      5.40 ms     2.5x        1234567
"""
TIMES = {"best": 0.001, "p50": 0.002, "p90": 0.003, "runs": 9}


def result(**peers):
    return {"machine": RUN.machine(), "seconds": 1, "versions": RUN.versions(), "peers": peers}


class Reading(unittest.TestCase):
    def test_weirs_own_figures_are_read_from_its_bench(self):
        found = RUN.weir(BENCH)
        self.assertAlmostEqual(found["fresh"]["p50"], 1.35e-3)
        self.assertAlmostEqual(found["step"]["p90"], 158e-6)
        self.assertAlmostEqual(found["call"]["best"], 22.7e-6)
        self.assertAlmostEqual(found["cpu"]["p50"], 13.3e-3)

    def test_a_bench_without_its_rows_is_a_reason(self):
        with self.assertRaises(RUN.Absent):
            RUN.weir("error: could not compile")

    def test_every_requirement_is_one_exact_version_and_names_no_address(self):
        text = (HERE / "requirements.txt").read_text()
        for name, rows in RUN.sections(text).items():
            self.assertIn(name, RUN.PEERS)
            self.assertTrue(rows[0].startswith(name + "=="), name)
            for row in rows:
                self.assertRegex(row, r"^[a-z0-9-]+==[0-9][0-9a-z.]*$")
        lock = json.loads((HERE / "package-lock.json").read_text())
        for package in list(lock["packages"].values())[1:]:
            self.assertIn("integrity", package)
            self.assertNotIn("resolved", package)

    def test_a_reason_shows_no_address_and_no_path(self):
        text = RUN.said("x\nERROR: no match for https://index.example/simple in /home/somebody/file.txt | 1\n")
        self.assertEqual(text, "ERROR: no match for the index in … / 1")
        self.assertEqual(RUN.said(""), "no word")

    def test_a_command_that_fails_hangs_or_is_not_there_is_a_reason(self):
        for command, words in (
            (["no-such-command-here"], "is not here"),
            (["sh", "-c", "echo 'error: broken' >&2; exit 3"], "error: broken"),
            (["sleep", "5"], "did not end"),
        ):
            with self.assertRaisesRegex(RUN.Absent, words):
                RUN.ran(command, 0.5)


class Writing(unittest.TestCase):
    def test_a_peer_that_is_absent_is_in_the_table_with_its_reason(self):
        text = RUN.report(result(native={"fresh": TIMES}, pyeryx={"reason": "did not install: no wheel"}))
        self.assertIn("| 2 ms | none | none | none |", text)
        self.assertIn("\npyeryx: did not install: no wheel.", text)
        self.assertIn("not measured", text)

    def test_the_plot_is_well_formed_and_longer_times_have_longer_bars(self):
        slow = {key: value * 100 for key, value in TIMES.items()}
        drawn = RUN.plot(result(weir={"fresh": TIMES}, native={"fresh": slow}, pyodide={"reason": "x"}))
        bars = minidom.parseString(drawn).getElementsByTagName("rect")[1:]
        self.assertEqual(len(bars), 2)
        self.assertLess(float(bars[0].getAttribute("width")), float(bars[1].getAttribute("width")))

    def test_times_are_shown_in_the_unit_that_fits(self):
        shown = [RUN.shown(seconds) for seconds in (2.5, 0.0123, 146e-6, 5e-8)]
        self.assertEqual(shown, ["2.5 s", "12.3 ms", "146 us", "50 ns"])
        self.assertAlmostEqual(RUN.time_of("146.0 us"), 146e-6)


class Measuring(unittest.TestCase):
    def test_a_slow_first_run_counts_and_a_quick_one_does_not(self):
        self.assertEqual(len(MEASURE.timed(lambda: None, 5, most=10)), 10)
        self.assertEqual(len(MEASURE.timed(lambda: None, 0)), 1)

    def test_the_middle_of_what_was_measured_is_its_middle(self):
        found = MEASURE.summary([float(number) for number in range(100, 0, -1)])
        self.assertEqual(found, {"best": 1.0, "p50": 51.0, "p90": 91.0, "runs": 100})

    def test_every_peer_of_the_table_can_be_measured(self):
        self.assertEqual(set(RUN.PEERS) - {"weir", "pyodide"}, set(MEASURE.PEERS))


if __name__ == "__main__":
    unittest.main()
