"""What the API says of the account: its ssh keys and invoices, and results of commands."""

import math
import shlex
from datetime import UTC, datetime

from .market import SECONDS_AN_HOUR
from .world import Instance, World

MAY_EXECUTE = ("ls", "rm", "du")


class Account:
    """Answers that need neither offers nor contracts. `results`: what `execute` has printed."""

    world: World
    url: str
    results: list[str]

    def key_list(self, body: dict) -> list[dict]:
        created = datetime.fromtimestamp(self.world.began, UTC).isoformat()
        facts = {"user_id": 4242, "created_at": created, "deleted_at": None}
        keys = enumerate(self.world.account_keys, 1)
        return [{"id": number, "public_key": key, **facts} for number, key in keys]

    def execute(self, instance: Instance, body: dict) -> dict:
        """Run one of three programs on the disk. The client fetches what it printed."""
        command = shlex.split(str(body.get("command", "")))
        if not command or command[0] not in MAY_EXECUTE:
            raise ValueError(f"command: one of {', '.join(MAY_EXECUTE)} was expected.")
        self.results.append(instance.machine.execute(command))
        return {
            "success": True,
            "writeable_path": str(instance.machine.path("/")),
            "result_url": f"{self.url}/fake/results/{len(self.results) - 1}",
            "msg": None,
        }

    def recycle(self, instance: Instance, body: dict) -> dict:
        self.world.recycle(instance)
        return {"success": True}

    def deposit(self, instance: Instance, body: dict) -> dict:
        """Only reserved instances have a deposit."""
        nothing = {"refundable_deposit": 0, "total_discount": 0, "discount_months": 0}
        return {"success": True, **nothing}

    def invoices(self, query: dict) -> dict:
        """Payments and charges from `sdate` to `edate`, and what is owed now."""
        world = self.world
        first, last = (float(query.get(k, d)) for k, d in (("sdate", 0), ("edate", math.inf)))
        rows = [
            {"type": "payment", "description": "Credit", "timestamp": when, "amount": f"{sum_:.3f}"}
            for when, sum_ in world.payments
        ]
        for instance in world.instances.values() if query.get("inc_charges") != "false" else ():
            for kind, (seconds, dollars) in instance.charges.items():
                hours = seconds / SECONDS_AN_HOUR
                rows.append(
                    {
                        "type": "charge",
                        "description": f"Instance {instance.id} {kind} charge: hours * $/hr",
                        "timestamp": instance.created,
                        "quantity": f"{hours:.3f}",
                        "rate": f"{dollars / hours if hours else 0:.4f}",
                        "amount": f"{dollars:.3f}",
                        "instance_id": instance.id,
                    }
                )
        rows = [row for row in rows if first <= row["timestamp"] <= last]
        current = {"charges": world.spent, "service_fee": 0, "credit": world.balance}
        return {"invoices": rows, "current": current | {"total": world.spent}}
