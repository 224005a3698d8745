"""Who takes part in a federation, and how it stands with each."""

from scfl_green.errors import InputError
from scfl_green.sites.control import control
from scfl_green.sites.invitations import Record, records
from scfl_green.sites.server import ServerSettings


def states(server: ServerSettings) -> dict[str, str]:
    """By name, the state of each site that was invited. Whether one is connected only a started server knows."""
    try:
        with control(server, wait_seconds=0) as calls:
            connected = {site.name: site.status for site in calls.sites()}
    except InputError:
        connected = {}
    return {name: _state(record, connected.get(name, "")) for name, record in records(server).items()}


def _state(record: Record, status: str) -> str:
    if not record.public_key:
        return f"invitation expired {record.expires[:10]}" if record.expired else f"invited until {record.expires[:10]}"
    return {"online": "connected", "": "joined (the server is stopped)"}.get(status, "joined, not connected")
