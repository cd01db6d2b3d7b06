"""A real SLURM on one host, for tests: munge, slurmctld and two nodes with four fake GPUs each. No systemd.

    python tests/slurm/cluster.py install        apt-get, where root may
    python tests/slurm/cluster.py up FOLDER      prints the line that puts it in use
    python tests/slurm/cluster.py down FOLDER

Every daemon is a plain process of this user with its files in FOLDER and its port on 127.0.0.1; ``down`` ends
those it started, by pid. Fake GPUs are character devices nobody uses: SLURM counts them, nothing opens them.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel", "sinfo")
NODES = ("n1", "n2")
DEVICES = tuple(Path(f"/dev/tty{number}") for number in range(10, 14))
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
WAIT_S = 20.0

CONF = """ClusterName=ci
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.file
SlurmdPidFile={folder}/slurmd-%n.file
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/log/jobcomp.txt
JobRequeue=1
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
PropagateResourceLimits=NONE
KillWait=5
MinJobAge=600
SlurmctldTimeout=30
SlurmdTimeout=30
GresTypes=gpu
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} {node}
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} {node}
PartitionName=debug Nodes=ALL Default=YES MaxTime=60 State=UP OverSubscribe=FORCE:4
"""


def missing() -> str:
    """Why no cluster can be started here; empty if one can."""
    absent = [name for name in COMMANDS if _which(name) is None]
    if absent:
        return f"SLURM is not installed: no {', '.join(absent)}; as root: python {__file__} install"
    devices = [str(path) for path in DEVICES if not path.is_char_device()]
    return f"no character devices to pose as GPUs: {', '.join(devices)}" if devices else ""


def install() -> str:
    """Install the packages if that is possible; returns ``missing`` afterwards."""
    if not missing() or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return missing()
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "-y", "--no-install-recommends", *PACKAGES]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["apt-get", "-qq", *words], env=quiet, timeout=180, capture_output=True)
    return missing()


def _which(name: str) -> str | None:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":" + SBIN)


@dataclass(frozen=True)
class Cluster:
    """A cluster in a folder; the folder's ``*.pid`` are its processes."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes SLURM's commands speak to this cluster."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def up(self) -> None:
        """Start every daemon and wait until both nodes are idle; leaves nothing behind if it cannot."""
        try:
            self._write()
            self._start("munged", "munged", "--force", "--foreground", *self._munge_files())
            self._until("munge", (self.folder / "munge.sock").is_socket)
            self._start("slurmctld", "slurmctld", "-D")
            for node in NODES:
                self._start(f"slurmd-{node}", "slurmd", "-D", "-N", node)
            self._until("nodes", lambda: self.ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * 2)
        except BaseException:
            self.down()
            raise

    def ask(self, *words: str) -> str:
        """Standard output of a SLURM command, empty if it fails."""
        own = os.environ | self.environment
        return subprocess.run(words, env=own, capture_output=True, text=True, timeout=30).stdout

    def down(self) -> None:
        """End what ``up`` started, newest first: TERM, then KILL."""
        if (self.folder / "slurmctld.pid").exists():
            with contextlib.suppress(subprocess.TimeoutExpired, FileNotFoundError):
                self.ask("scancel", "-f", "-u", getpass.getuser())
                end = time.monotonic() + 10  # jobs first: their shepherds would outlive slurmd
                while self.ask("squeue", "-h").strip() and time.monotonic() < end:
                    time.sleep(0.2)
        files = sorted(self.folder.glob("*.pid"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
        for file in files:
            _end(int(file.read_text()))
            file.unlink()

    def _write(self) -> None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20
        node = f"CPUs={os.cpu_count()} RealMemory={memory * 3 // 8} Gres=gpu:h100:4 State=UNKNOWN"
        values = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser(), "node": node}
        for name in ("state", "log", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)  # munge refuses a socket others could not reach
        text = CONF.format(folder=self.folder, ports=_free_ports(3), **values)
        (self.folder / "slurm.conf").write_text(text)
        gpus = f"File={DEVICES[0].parent}/tty[10-13] Flags=nvidia_gpu_env"
        (self.folder / "gres.conf").write_text(f"NodeName=n[1-2] Name=gpu Type=h100 {gpus}\n")
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        key = self.folder / "munge.key"
        if not key.exists():
            key.write_bytes(secrets.token_bytes(128))
            key.chmod(0o400)

    def _munge_files(self) -> list[str]:
        names = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munged.file"}
        names |= {"log-file": "log/munged.log", "seed-file": "munge.seed"}
        return [f"--{option}={self.folder / name}" for option, name in names.items()]

    def _start(self, name: str, command: str, *words: str) -> None:
        program = _which(command)
        assert program is not None
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            child = subprocess.Popen(
                [program, *words],
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        (self.folder / f"{name}.pid").write_text(str(child.pid))

    def _until(self, what: str, ready: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not ready():
            if time.monotonic() > end:
                logs = (path.read_text(errors="replace")[-800:] for path in (self.folder / "log").iterdir())
                raise TimeoutError(f"{what} not ready after {WAIT_S:.0f} s:\n" + "\n".join(logs))
            time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _end(pid: int) -> None:
    for number, patience_s in ((signal.SIGTERM, 10.0), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        end = time.monotonic() + patience_s
        while time.monotonic() < end:
            if not _alive(pid):
                return
            time.sleep(0.05)


def _alive(pid: int) -> bool:
    with contextlib.suppress(ChildProcessError):  # ours, if this process started it
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def main() -> int:
    if sys.argv[1:] == ["install"]:
        print(install() or "SLURM is installed")
        return 0
    if len(sys.argv) != 3 or sys.argv[1] not in ("up", "down"):
        print(__doc__)
        return 2
    cluster = Cluster(Path(sys.argv[2]).resolve())
    if sys.argv[1] == "down":
        cluster.down()
        return 0
    if missing():
        print(missing(), file=sys.stderr)
        return 1
    cluster.folder.mkdir(parents=True, exist_ok=True)
    cluster.up()
    print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
