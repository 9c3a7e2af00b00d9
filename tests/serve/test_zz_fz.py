import tests.serve.test_hostile as T
def test_it(port):
    base=f"http://127.0.0.1:{port}"
    rows=T.fuzz(base,T.described(base,T.KEY),60,0,T.KEY)
    open("/tmp/serving/faults.txt","w").write("\n\n".join(repr(r) for r in rows if r["fault"]))
from tests.serve.test_hostile import *
