import time, cProfile, pstats
from datetime import UTC, datetime
from tasks.run import begin_run
from flows import stages
from tests.end_to_end.conftest import tiny_config

def test_it(data, tmp_path):
    for i in range(3):
        t=time.time()
        config = tiny_config(data, tmp_path, run=f"r{i}", batch_size=12)
        info = begin_run(config, datetime.now(UTC))
        stages.prepare(config.store, info.run)
        print("prep", time.time()-t)
        t=time.time(); c=time.process_time()
        with cProfile.Profile() as p:
            stages.train(config.store, info.run)
        print("train", time.time()-t, time.process_time()-c)
        pstats.Stats(p).sort_stats("cumulative").print_stats(100)
