"""A sweep under a driver that breaks it: processes killed, disks full, files damaged, folders locked,
solvers failing, NaN in the loss. In the end every run must equal the unbroken one.

    python scripts/chaos.py
    python scripts/chaos.py --hosts --workers 3 --kills 150
    python scripts/chaos.py --launchers --seeds 2 --kills 40

The driver does every run once, unbroken, and then the same sweep in forked workers. Each worker takes
the runs in an order of its own; the driver kills one at a random moment, damages a random file between
two lives, and starts another, until the kills are made and every run is finished. A worker may also be
born with a fault: a limit on the size of files, a folder it may not write, a solver that solves nothing,
a loss that is not a number, a disk whose fsync fails, another version of the suite. With ``--hosts``
every worker is a host of its own on a file system whose locks do not reach the others, and in place of a
kill it may be suspended until it counts as dead, and woken while another is in its run. With
``--launchers`` the sweep is the command of a user, under each of Hydra's launchers in turn: who is in a
run is killed, or the command, which is repeated until it ends well. The exit code is 1 if a number, a
line or a lock is not as it should be.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch
from storms import forks, launchers
from storms.sweep import Sweep


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=7, help="of six runs each")
    parser.add_argument("--kills", type=int, default=200, help="of each launcher, if of launchers")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--hosts", action="store_true", help="a host a worker; some are suspended")
    parser.add_argument(
        "--launchers",
        nargs="*",
        choices=launchers.LAUNCHERS,
        help="the command of a user; all of them if none is named",
    )
    parser.add_argument("--seed", type=int, default=0, help="of what breaks when")
    parser.add_argument("--minutes", type=float, default=60, help="give up after")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        sweep = Sweep(Path(folder), arguments.seeds, arguments.seed)
        sweep.whole()
        if arguments.launchers is None:
            storm = forks.Storm(sweep, arguments.workers, arguments.hosts)
            storm.blow(arguments.kills, arguments.minutes)
            return sweep.report(storm.kills)
        codes = []
        for name in arguments.launchers or launchers.LAUNCHERS:
            sweep.anew(name)
            command = launchers.Storm(sweep, name)
            try:
                command.blow(arguments.kills, arguments.minutes)
            finally:
                command.end()
            codes.append(sweep.report(command.kills))
        return max(codes)


if __name__ == "__main__":
    sys.exit(main())
