import torch, time, itertools
from torch.nn.attention import sdpa_kernel, SDPBackend
from flashlab.spec import Spec
from flashlab import reference, attention
from flashlab.kernels import configs
from flashlab.kernels.configs import Config
from flashlab.kernels import forward as F, backward as B
from triton.testing import do_bench
import triton
print(torch.__version__, triton.__version__, torch.cuda.get_device_name())
torch.manual_seed(0)
# correctness
def err(a,b): return (a.double()-b.double()).abs().max().item() if a.numel() else 0.
for (sq,sk,hq,hk,d,c,dt) in [(128,128,2,2,64,False,torch.bfloat16),(113,203,4,2,40,True,torch.float16),(1023,1024,6,2,128,True,torch.bfloat16),(203,113,2,1,128,True,torch.float32),(1,257,1,1,1,False,torch.float32),(1000,777,2,2,96,False,torch.bfloat16),(5,0,1,1,16,False,torch.float16)]:
    q=torch.randn(2,sq,hq,d,dtype=dt,device="cuda").transpose(1,2).requires_grad_(); k=torch.randn(2,hk,sk,d,dtype=dt,device="cuda",requires_grad=True); v=torch.randn_like(k,requires_grad=True)
    g=torch.randn(2,hq,sq,d,dtype=dt,device="cuda")
    s=Spec(d**-.5,c)
    ro,rl=reference.attention(q,k,v,s); rg=reference.attention_backward(g,q,k,v,s)
    o,l=attention(q,k,v,is_causal=c,enable_gqa=True,return_lse=True); gr=torch.autograd.grad(o,(q,k,v),g)
    kk,vv=[x.repeat_interleave(hq//hk,1) for x in (k,v)]
    sc=(q@kk.mT)*s.scale
    if c: sc=sc.masked_fill(~torch.ones(sq,sk,device="cuda",dtype=torch.bool).tril(),-torch.inf)
    po=torch.softmax(sc,-1)@vv; pg=torch.autograd.grad(po,(q,k,v),g)
    print((sq,sk,hq,hk,d,c,dt),"ours/plain", [round(err(x,y)/max(err(z,y),1e-9),2) for x,y,z in zip((o,*gr),(ro,*rg),(po,*pg))], "lse",err(l,rl) if sk else "")
def bench(f): return do_bench(f,warmup=50,rep=200,return_mode="median")
def case(S,D,c):
    H=2048//D; Bt=16384//S
    q,k,v,g=[torch.randn(Bt,H,S,D,dtype=torch.bfloat16,device="cuda") for _ in range(4)]
    fl=4*Bt*H*S*S*D*(0.5 if c else 1)/1e9
    s=Spec(D**-.5,c)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        tf=bench(lambda: torch.nn.functional.scaled_dot_product_attention(q,k,v,is_causal=c))
        qq,kk,vv=[x.clone().requires_grad_() for x in (q,k,v)]
        o=torch.nn.functional.scaled_dot_product_attention(qq,kk,vv,is_causal=c)
        tb=bench(lambda: torch.autograd.grad(o,(qq,kk,vv),g,retain_graph=True))
    print(f"S{S} D{D} causal={c} FA2 fwd {fl/tf:.0f} bwd {2.5*fl/tb:.0f}")
    fw={128:[Config(128,128,8,2),Config(128,64,8,3),Config(128,64,4,3)],64:[Config(128,64,4,3),Config(128,128,8,2)]}[D]
    for cf in fw:
        try: print("  fwd",cf,f"{fl/bench(lambda: F.forward(q,k,v,s,cf)):.0f}",flush=True)
        except Exception as e: print("  fwd",cf,str(e)[:80])
    o,l=F.forward(q,k,v,s)
    t=bench(lambda: B.backward(g,q,k,v,o,l,s)); print(f"  bwd total {2.5*fl/t:.0f}",flush=True)
    dk0,dq0=configs.HOPPER["dkdv",D],configs.HOPPER["dq",D]
    for cf in [Config(64,64,4,3)]:
        configs.HOPPER["dkdv",D]=cf; print("  dkdv",cf,f"{2.5*fl/bench(lambda: B.backward(g,q,k,v,o,l,s)):.0f}",flush=True)
    configs.HOPPER["dkdv",D]=dk0
    for cf in [Config(128,128,8,2),Config(128,64,8,2)]:
        try: configs.HOPPER["dq",D]=cf; print("  dq",cf,f"{2.5*fl/bench(lambda: B.backward(g,q,k,v,o,l,s)):.0f}",flush=True)
        except Exception as e: print("  dq",cf,str(e)[:80])
    configs.HOPPER["dq",D]=dq0
for D,c in [(128,False),(128,True),(64,False),(64,True)]: case(4096,D,c)
# first call and bitwise
q,k,v,g=[torch.randn(2,8,2048,128,dtype=torch.bfloat16,device="cuda") for _ in range(4)]
s=Spec(.1,True); o,l=F.forward(q,k,v,s); a=B.backward(g,q,k,v,o,l,s)
print("bitwise", all(all(torch.equal(x,y) for x,y in zip(a,B.backward(g,q,k,v,o,l,s))) for _ in range(10)))
