"""A client of the Vast API without manners: no throttle, no retries."""

import requests

A_MACHINE = {"image": "pytorch/pytorch", "disk": 72, "runtype": "ssh_direc ssh_proxy"}


class Client:
    def __init__(self, fake, key=None):
        self.url, self.headers = fake.url, {"Authorization": f"Bearer {key or fake.key}"}

    def __call__(self, method, path, body=None, **query):
        return requests.request(
            method,
            f"{self.url}/api{path}",
            json=body,
            params=query,
            headers=self.headers,
            timeout=20,
        )

    def search(self, **filters):
        reply = self("POST", "/v0/bundles/", filters)
        assert reply.status_code == 200, reply.text
        return reply.json()["offers"]

    def create(self, offer=501, **request):
        return self("PUT", f"/v0/asks/{offer}/", A_MACHINE | request)

    def rent(self, offer=501, **request):
        reply = self.create(offer, **request)
        assert reply.status_code == 200, reply.text
        return reply.json()["new_contract"]

    def get(self, number):
        return self("GET", f"/v0/instances/{number}/", owner="me").json()["instances"]

    def state(self, number, state):
        return self("PUT", f"/v0/instances/{number}/", {"state": state})

    def destroy(self, number):
        return self("DELETE", f"/v0/instances/{number}/")
