"""What is said while jobs run: lines of fedgloss.study.messages among Snakemake's own messages.

REQUIRES  STUDY (study.smk)
PROVIDES  nothing; the lines go to the terminal and to Snakemake's log in .snakemake/log
"""

import os
import re

from snakemake.common import NOTHING_TO_BE_DONE_MSG
from snakemake.logging import logger
from snakemake_interface_logger_plugins.common import LogEvent

from fedgloss.study.messages import Messages, Planned, outdated

# What says nothing about a run: no environment is used unless it is asked for.
NOISE = ("Conda environments: ignored", "Singularity containers: ignored")


def planned(job):
    """What our lines need to know of a job."""
    kind = re.sub("_(seeds|methods|trials[0-9]+)$", "", job.rule.name)
    forced = bool(workflow.dag.reason(job).forced)
    return Planned(kind, job.wildcards_dict, job.output, forced)


def tell_outdated(needed):
    """Say which runs are outdated and not among the jobs that are needed."""
    needed = {*needed}
    for line in outdated(STUDY, [planned(job) for job in workflow.dag.jobs if job not in needed]):
        logger.warning(line)


class Narrator:
    """Adds our lines before Snakemake's messages, and leaves out those that are noise."""

    def __init__(self):
        self.messages = None

    def filter(self, record):
        """Called for each message with its event, if it has one; whether to show it."""
        event = getattr(record, "event", None)
        if record.msg == NOTHING_TO_BE_DONE_MSG:
            tell_outdated(())
        elif event == LogEvent.RUN_INFO and not self.messages:
            needed = [*workflow.dag.needrun_jobs()]
            jobs = {workflow.dag.jobid(job): planned(job) for job in needed}
            self.messages = Messages(STUDY, jobs)
            tell_outdated(needed)
            cores = workflow.resource_settings.cores
            for line in self.messages.plan(workflow.dryrun, may_have_gpu(), cores):
                logger.info(line)
        elif self.messages and event == LogEvent.JOB_INFO:
            if record.jobid not in self.messages.jobs:  # a checkpoint has made it necessary
                jobs = {workflow.dag.jobid(job): job for job in workflow.dag.needrun_jobs()}
                new = jobs.keys() - self.messages.jobs.keys()
                self.messages.add({number: planned(jobs[number]) for number in new})
            if record.local:
                self.messages.started(record.jobid)
        elif self.messages and event == LogEvent.JOB_FINISHED:
            for line in self.messages.finished(record.job_id):
                logger.info(line)
        elif self.messages and event == LogEvent.JOB_ERROR:
            for line in self.messages.failed(record.jobid, record.log, record.rule_msg):
                logger.error(line)
            record.log = [file for file in record.log if os.path.isfile(file)]
        # That a command has failed, at the length of the command, is known from JOB_ERROR.
        failed = (
            self.messages and event == LogEvent.ERROR and "CalledProcessError" in str(record.msg)
        )
        return not failed and record.msg not in NOISE


if workflow.is_main_process:
    logger.addFilter(Narrator())
