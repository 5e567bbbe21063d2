"""Pods: what RunPod does otherwise than Vast with a machine, its disks and its price."""

from pathlib import Path

from fakes.vast.machine import Machine
from fakes.vast.market import HOURS_A_MONTH
from fakes.vast.network import Wire
from fakes.vast.world import Instance, World

# Dollars per GB and month: of both disks while a pod runs, and of its volume while it is stopped.
DISK, STOPPED_DISK = 0.10, 0.20


class PodMachine(Machine):
    """A stop erases its disk but for the volume, and gives it another port at its next start.

    RunPod starts no ssh server in it, and lets no key in.
    """

    sshd = "command"

    def __init__(self, home: Path, *more):
        super().__init__(home, *more)
        self.volume = home / "volume"
        self.volume.mkdir()
        self.wires, self._booted = [self.direct], False

    def path(self, inside) -> Path:
        if self.alive:
            return Path(f"/proc/{self._init()}/root") / str(inside).lstrip("/")
        if Path(inside).is_relative_to(self.mount):
            return self.volume / Path(inside).relative_to(self.mount)
        return super().path(inside)

    def power_off(self, silently: bool = False) -> None:
        super().power_off(silently)
        self.wipe()
        self.apt_locked = False

    def boot(self, environment: dict[str, str], onstart: str) -> None:
        if self._booted:
            self.direct.release()
            self.direct = Wire(self.direct.address, self.direct.target)
            self.wires = [self.direct]
        self._booted = True
        super().boot(environment, onstart)


class Pod(Instance):
    """A contract. Its `request` is that of a create, in the words of the fake Vast."""

    def rates(self) -> dict:
        volume, system = self.request["disk"], self.request["system"]
        running = DISK * (volume + system)
        disks = (running if self.uses_gpu else STOPPED_DISK * volume) / HOURS_A_MONTH
        gpu = self.dearer * self.offer.dph_base
        return {"dph_base": gpu, "storage_total_cost": disks, "dph_total": gpu + disks}

    @property
    def status(self) -> str:
        """As the API v2 names it. A host that has vanished changes nothing of it."""
        if self.cur_state == "stopped":
            return "EXITED"
        if self.faults.get("status_msg") and self.status_msg == self.faults["status_msg"]:
            return "ERROR"
        if self.actual_status in (None, "created"):
            return "PROVISIONING"
        return "STARTING" if self.actual_status in ("loading", "rebooting") else "RUNNING"


class RunPodWorld(World):
    instance_class, machine_class = Pod, PodMachine

    def environment(self, instance: Pod) -> dict[str, str]:
        direct = instance.machine.direct
        return {
            "RUNPOD_POD_ID": pod_id(instance),
            "RUNPOD_API_KEY": instance.key,
            "RUNPOD_DC_ID": instance.offer.geolocation,
            "RUNPOD_GPU_COUNT": str(instance.offer.num_gpus),
            "RUNPOD_PUBLIC_IP": direct.address,
            "RUNPOD_TCP_PORT_22": str(direct.port),
        }

    def vanish(self, instance: Pod, says: str = "offline", silently: bool = False) -> None:
        super().vanish(instance, "running", silently)
        instance.uses_gpu = False  # nobody pays for a host that is not there


def pod_id(instance: Instance) -> str:
    return f"pod{instance.id}x"
