"""Rents from a fake and logs in, without manners: no throttle, no retries."""

import subprocess

import requests

PATIENCE = 60  # s, for a busy machine
REQUEST = {"image": "pytorch/pytorch", "disk": 20, "runtype": "ssh_direc ssh_proxy"}


class Driver:
    """Rents from a fake whose clock stands still, and logs in."""

    def __init__(self, fake, folder):
        self.fake, self.folder = fake, folder
        self.headers = {"Authorization": f"Bearer {fake.key}"}
        subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", folder / "id"], check=True)
        self.public = (folder / "id.pub").read_text()

    def api(self, method, path, body=None):
        reply = requests.request(
            method, f"{self.fake.url}/api/v0{path}", json=body, headers=self.headers, timeout=30
        )
        assert reply.ok, reply.text
        return reply.json()

    def rent(self, offer=501, key=True, wait=20, **request):
        number = self.api("PUT", f"/asks/{offer}/", REQUEST | request)["new_contract"]
        if key:
            self.api("POST", f"/instances/{number}/ssh/", {"ssh_key": self.public})
        self.fake.advance(wait)
        return number

    def options(self, number, direct=False):
        shown = self.api("GET", f"/instances/{number}/")["instances"]
        host, port = shown["ssh_host"], shown["ssh_port"]
        if direct:
            host, port = shown["public_ipaddr"], shown["ports"]["22/tcp"][0]["HostPort"]
        known = self.folder / "known_hosts"
        ssh = (
            f"ssh -F none -i {self.folder}/id -p {port} -o BatchMode=yes -o LogLevel=ERROR "
            f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=accept-new"
        )
        return ssh.split(), f"root@{host}"

    def start(self, number, command, direct=False):
        ssh, host = self.options(number, direct)
        return subprocess.Popen(
            [*ssh, host, command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def once(self, number, command, direct=False):
        """(exit code, output); 255: no login."""
        process = self.start(number, command, direct)
        output, error = process.communicate(timeout=PATIENCE)
        return process.returncode, output + error

    def ssh(self, number, command, direct=False):
        """The output of a command, once sshd is up."""
        done = self.fake.wait(
            lambda: (d := self.once(number, command, direct))[0] != 255 and d, PATIENCE
        )
        assert done[0] == 0, done[1]
        return done[1].strip()

    def appears(self, number, path):
        self.fake.wait(self.fake.machine(number).path(path).exists, PATIENCE, f"no {path}")
