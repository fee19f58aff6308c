"""``fwdllm-server dashboard``: print the dashboard's address and access token."""

from __future__ import annotations

from fwdllm_common.errors import BadInputError
from fwdllm_server.cli.options import DEFAULT_FOLDER, FolderOption, JsonOption
from fwdllm_server.config.home import ServerHome
from fwdllm_server.views.message_json import print_json


def dashboard(folder: FolderOption = DEFAULT_FOLDER, json: JsonOption = False) -> None:
    """Print the dashboard's address. The address for other machines includes the access token."""
    home = ServerHome.open(folder)
    config = home.config()
    url = home.dashboard_url(config)
    if not url:
        raise BadInputError(f"the dashboard is off; give [listen] dashboard in {home.config_file} an address")
    if json:
        print_json({"url": url, "token": home.dashboard_token()})
    elif url.startswith("https:"):
        print(f"{url}?token={home.dashboard_token()}")
    else:
        print(url)
