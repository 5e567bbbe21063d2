"""The fake as tests hold it: that of Vast, with RunPod's requests, offers and machines."""

from fakes.vast.fake import FakeVast
from fakes.vast.market import Offer
from fakes.vast.world import Instance

from .api import ROUTES, Api
from .pods import RunPodWorld, pod_id


class FakeRunPod(FakeVast):
    """As FakeVast. An offer is one host: the catalogue shows hosts of a GPU and a place as one."""

    market = "runpod"
    key = "rpa_key-of-the-fake"
    routes, api_class, world_class = ROUTES, Api, RunPodWorld

    @property
    def environment(self) -> dict[str, str]:
        return {"RUNPOD_API_BASE_URL": self.url, "RUNPOD_API_KEY": self.key}

    @staticmethod
    def default_offers() -> list[Offer]:
        """Hosts in three data centres. `geolocation` is the data centre, `host_gpus` its free GPUs
        of this kind."""
        h100 = {"gpu_name": "H100 SXM", "gpu_ram": 81559, "dph_base": 2.69}
        return [
            Offer(601, 31, dph_base=0.34, geolocation="EU-RO-1"),
            Offer(602, 32, dph_base=0.34, geolocation="EU-RO-1"),
            Offer(603, 33, dph_base=0.34, geolocation="US-KS-2"),
            Offer(604, 34, dph_base=0.68, geolocation="US-KS-2", num_gpus=2),
            Offer(605, 35, "A100 SXM", gpu_ram=81920, dph_base=1.39, geolocation="US-KS-2"),
            Offer(606, 36, geolocation="CA-MTL-1", **h100),
            Offer(607, 37, geolocation="EU-RO-1", **h100),
            Offer(608, 38, dph_base=0.34, geolocation="CA-MTL-1", cuda_max_good=12.4),
        ]

    def name_of(self, instance: Instance) -> str:
        return pod_id(instance)

    def outbid(self, number: int) -> None:
        raise NotImplementedError("no pod of the API v2 is interruptible")

    def exit(self, number: int, message: str = "") -> None:
        """The command of the container ends by itself: it is started again."""
        with self.world.changed:
            self.world.catch_up()
            self.world.reboot(self.instance(number))
