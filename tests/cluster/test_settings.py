"""What may be said of a cluster, and what is kept of it."""

from __future__ import annotations

import pytest
import yaml

from bigreg import load_config
from bigreg.cluster import KINDS, Cluster, require_memory, worker_memory
from bigreg.cluster.settings import MEANT_FOR
from bigreg.config import cluster_names, load_cluster, preset_folder, preset_names
from bigreg.errors import ConfigError, ResourceError

SLURM = {"kind": "slurm", "workers": 4, "memory_limit": "4GB"}
POD = {"kind": "kubernetes", "workers": 4, "memory_limit": "4GB"}
PLANTED = "hunter2"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"queue": "long"}, r"cluster.queue = 'long' means nothing to kind 'local'.*slurm or lsf or pbs or sge"),
        ({"kind": "address", "scheduler_file": "s", "workers": 3}, "cluster.workers = 3 means nothing"),
        ({"kind": "cuda", "adaptive": 1, "workers": 2}, "cluster.adaptive = 1 means nothing"),
        ({"kind": "slurm", "memory_limit": "4GB"}, "cluster.workers is missing.*give cluster.workers="),
        ({"kind": "slurm", "workers": 4}, "cluster.memory_limit is missing.*give cluster.memory_limit="),
        ({"memory_limit": "plenty"}, "'plenty' is not a size"),
        ({"memory_limit": "0GB"}, "'0GB' must be positive"),
        ({"adaptive": 3, "workers": 2}, "cluster.adaptive = 3 .* at least 3"),
        ({**SLURM, "walltime": "soon"}, "'soon' is not a time"),
        ({**SLURM, "walltime": "00:01:00"}, "no time to work"),
        ({**SLURM, "walltime": True}, "is not a time"),
        ({**SLURM, "tls_ca": "ca.pem"}, "cluster.tls_cert is missing"),
        ({**SLURM, "encrypt": False, "tls_ca": "a", "tls_cert": "b", "tls_key": "c"}, "cluster.encrypt"),
        ({**SLURM, "kind": "sge", "cores": 4}, "-pe smp 4"),
        ({**SLURM, "kind": "sge", "gpus": 1, "cores": 1}, "-l gpu=1"),
        ({**SLURM, "kind": "sge", "gpus": 1, "job_extra": ["-l gpu=1"]}, "-pe smp 8"),
        ({**SLURM, "device": "cuda"}, "cluster.device = 'cuda' means nothing"),
        (POD, "cluster.image is missing"),
        ({**POD, "image": "bigreg", "gpus": 2}, "cluster.gpus = 2"),
        ({"kind": "address"}, "needs one of"),
        ({"kind": "address", "scheduler_file": "s", "scheduler_address": "tcp://h:1"}, "needs one of"),
        ({"kind": "address", "scheduler_address": "host:8786"}, "no protocol"),
        ({"kind": "address", "scheduler_address": "tls://host:8786"}, "tls_cert"),
        ({"kind": "condor"}, "cluster.kind = 'condor'"),
        ({"worker": 3}, "cluster.worker"),
        ({"workers": 0}, "cluster.workers = 0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_key_value_and_remedy(values, message):
    with pytest.raises(ConfigError, match=message):
        load_cluster(values)
    with pytest.raises(ConfigError, match=message):
        load_config({"cluster": values})


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [
        ("04:00:00", 14400),
        ("1-12:30:05", 131405),
        ("100:00:00", 360000),
        ("4h", 14400),
        ("90 minutes", 5400),
        (600, 600),
    ],
)
def test_walltime_is_read_in_the_ways_people_write_it(walltime, seconds):
    assert Cluster(**SLURM, walltime=walltime).walltime == seconds
    # YAML makes a number of a bare 12:00:00.
    assert load_config(cluster="slurm", overrides=["cluster.walltime=12:00:00"]).cluster.walltime == 43200


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "address", "scheduler_address": f"tls://me:{PLANTED}@host:8786"},
        {"kind": "local", "scheduler_address": f"tcp://me:{PLANTED}@host:8786"},
        {"kind": "address", "scheduler_address": [f"tcp://me:{PLANTED}@host:8786"]},
        {**SLURM, "prologue": [f"export AWS_SECRET_ACCESS_KEY={PLANTED}"]},
        {**SLURM, "prologue": [f"API_TOKEN='{PLANTED}' true"]},
        {**SLURM, "job_extra": [f"--export=ALL,DB_PASSWORD={PLANTED}"]},
        {**SLURM, "job_extra": f"--export=ALL,DB_PASSWORD={PLANTED}"},
        {**SLURM, "prologue": {"TOKEN": PLANTED}},
        {"kind": "local", "prologue": [f"echo {PLANTED}"]},
    ],
)
def test_a_credential_in_the_settings_is_refused_and_not_repeated(values):
    import traceback

    for load, given in ((load_cluster, values), (load_config, {"cluster": values})):
        with pytest.raises(ConfigError) as error:
            load(given)
        assert PLANTED not in "".join(traceback.format_exception(error.value))


def test_a_credential_that_is_fetched_when_the_job_runs_is_allowed():
    lines = ["source ~/.secrets", "export API_TOKEN=$(cat ~/.token)", 'export PASSWORD="$OTHER"']
    assert Cluster(**SLURM, prologue=lines).prologue == lines


def test_what_may_hold_a_credential_is_neither_stored_nor_shown():
    ours = [
        Cluster(**SLURM, prologue=[f"login {PLANTED}"], job_extra=[f"--comment={PLANTED}"]),
        Cluster(kind="address", scheduler_address=f"wss://host/{PLANTED}"),
    ]
    for settings in ours:
        assert settings.stored() == {"kind": settings.kind}
        assert PLANTED not in repr(settings) and PLANTED not in repr(load_config({"cluster": settings.model_dump()}))


def test_every_kind_has_a_preset_that_names_exactly_the_keys_it_reads():
    assert set(cluster_names()) == set(KINDS)
    assert not set(cluster_names()) & set(preset_names())
    for kind in KINDS:
        named = yaml.safe_load((preset_folder() / "clusters" / f"{kind}.yaml").read_text())
        assert named["kind"] == kind
        assert set(named) == {key for key, kinds in MEANT_FOR.items() if kind in kinds}
        image = {"image": "registry/bigreg:1"} if kind == "kubernetes" else {}
        assert load_cluster(kind, overrides=image).kind == kind
    assert set(MEANT_FOR) == set(Cluster.model_fields)


def test_a_cluster_is_a_name_or_a_file_and_flags_come_last(tmp_path):
    file = tmp_path / "ours.yaml"
    file.write_text("kind: pbs\nworkers: 3\nmemory_limit: 8GB\nqueue: long\n")
    config = load_config(preset="demo", cluster=file, overrides=["cluster.workers=5"])
    assert (config.cluster.kind, config.cluster.workers, config.cluster.queue) == ("pbs", 5, "long")
    assert config.result_part() == load_config(preset="demo").result_part()
    assert load_config(config, cluster="local").cluster == Cluster()
    with pytest.raises(ConfigError, match=r"cluster 'slrum' is neither .*slurm"):
        load_config(cluster="slrum")


def test_the_memory_of_a_worker_is_known_for_every_kind_that_starts_them():
    for kind, more in (("slurm", {}), ("kubernetes", {"image": "i"}), ("local", {}), ("cuda", {})):
        settings = Cluster(kind=kind, workers=2, memory_limit="2GB", **more)
        assert worker_memory(settings) == 2_000_000_000
        require_memory(2_000_000_000, settings)
        with pytest.raises(ResourceError, match="memory_limit"):
            require_memory(2_000_000_001, settings)
