from __future__ import annotations
import sys,tempfile,time,multiprocessing,json
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from scripts.zoo.architectures import ZOO
from scripts.zoo.work import one

if __name__=="__main__":
    out=Path(tempfile.mkdtemp(prefix='zoo-')); names=sys.argv[2:] or list(ZOO)
    print(out)
    with ProcessPoolExecutor(int(sys.argv[1]),multiprocessing.get_context("spawn")) as pool:
        jobs={pool.submit(one,name,out/name.replace(':','_')):name for name in names}
        for job in as_completed(jobs):
            f,t=job.result()
            print(f"{jobs[job]:22} {t:5.1f}s {f.status} {f.architecture} {f.quantized:.0%} {f.replayed} {f.line} {f.stays} {f.not_measured}",flush=True)
