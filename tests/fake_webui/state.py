"""What the host says of the job that runs."""

from __future__ import annotations

import time


class State:
    def __init__(self):
        self.interrupted = self.skipped = self.stopping_generation = False
        self.textinfo, self.job, self.time_start = None, "", None
        self.job_no = self.job_count = self.sampling_step = self.sampling_steps = 0

    def begin(self, job="(unknown)"):
        self.__init__()
        self.job, self.time_start, self.job_count = job, time.time(), -1

    def end(self):
        self.job, self.job_count = "", 0

    def nextjob(self):
        self.job_no += 1
        self.sampling_step = 0

    def interrupt(self):
        self.interrupted = True

    def skip(self):
        self.skipped = True
