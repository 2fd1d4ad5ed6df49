//! `CiliumNetworkPolicy` and `CiliumClusterwideNetworkPolicy`.

use super::Group;

pub(super) const GROUPS: &[Group] = &[
    Group {
        about: "endpoints of the own namespace, port as a text",
        documents: "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: l4, namespace: shop }
spec:
  endpointSelector: { matchLabels: { app: api } }
  ingress:
    - fromEndpoints: [ { matchLabels: { app: web } } ]
      toPorts: [ { ports: [ { port: '8080', protocol: TCP } ] } ]
",
        rows: "
            in  web     api:8080/tcp  allow shop/l4#ingress[0]
            in  web     api:8081/tcp  deny  shop/l4
            in  web     api:8080/udp  deny  shop/l4
            in  twin    api:8080/tcp  deny  shop/l4
            in  batch   api:8080/tcp  deny  shop/l4
            in  host    api:8080/tcp  deny  shop/l4
            in  unknown api:8080/tcp  deny  shop/l4
            in  web     batch:1/tcp   allow -
            out api     world:80/tcp  allow -
        ",
    },
    Group {
        about: "labels with sources, other namespaces, expressions",
        documents: "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: p, namespace: data }
spec:
  endpointSelector: { matchLabels: { 'k8s:app': db } }
  ingress:
    - fromEndpoints: [ { matchLabels: { 'any:app': cache } } ]
      toPorts: [ { ports: [ { port: '1' } ] } ]
    - fromEndpoints: [ { matchLabels: { 'k8s:io.kubernetes.pod.namespace': shop, 'k8s:app': web } } ]
      toPorts: [ { ports: [ { port: '2' } ] } ]
    - fromEndpoints: [ { matchExpressions: [ { key: 'k8s:io.kubernetes.pod.namespace', operator: In, values: [ shop, payments ] } ] } ]
      toPorts: [ { ports: [ { port: '3' } ] } ]
    - fromEndpoints: [ { matchExpressions: [ { key: io.kubernetes.pod.namespace, operator: Exists } ], matchLabels: { app: web } } ]
      toPorts: [ { ports: [ { port: '4' } ] } ]
    - fromEndpoints: [ {} ]
      toPorts: [ { ports: [ { port: '5' } ] } ]
    - fromEndpoints: [ { matchLabels: { io.kubernetes.pod.namespace: shop, io.cilium.k8s.policy.serviceaccount: batch } } ]
      toPorts: [ { ports: [ { port: '6' } ] } ]
    - fromEndpoints: [ { matchExpressions: [ { key: tier, operator: DoesNotExist }, { key: io.kubernetes.pod.namespace, operator: NotIn, values: [ ext ] } ] } ]
      toPorts: [ { ports: [ { port: '7' } ] } ]
",
        rows: "
            in  cache   db:1/tcp  allow data/p#ingress[0]
            in  cache   db:1/udp  allow data/p#ingress[0]
            in  web     db:1/tcp  deny  data/p
            in  web     db:2/tcp  allow data/p#ingress[1]
            in  twin    db:2/tcp  deny  data/p
            in  api     db:2/tcp  deny  data/p
            in  api     db:3/tcp  allow data/p#ingress[2]
            in  pay     db:3/tcp  allow data/p#ingress[2]
            in  cache   db:3/tcp  deny  data/p
            in  twin    db:4/tcp  allow data/p#ingress[3]
            in  web     db:4/tcp  allow data/p#ingress[3]
            in  api     db:4/tcp  deny  data/p
            in  cache   db:5/tcp  allow data/p#ingress[4]
            in  web     db:5/tcp  deny  data/p
            in  unknown db:5/tcp  deny  data/p
            in  batch   db:6/tcp  allow data/p#ingress[5]
            in  web     db:6/tcp  deny  data/p
            in  batch   db:7/tcp  allow data/p#ingress[6]
            in  cache   db:7/tcp  allow data/p#ingress[6]
            in  odd     db:7/tcp  deny  data/p
            in  web     db:7/tcp  deny  data/p
            in  unknown db:7/tcp  deny  data/p
        ",
    },
    Group {
        about: "entities",
        documents: "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: e, namespace: shop }
spec:
  endpointSelector: {}
  ingress:
    - { fromEntities: [ all ], toPorts: [ { ports: [ { port: '1' } ] } ] }
    - { fromEntities: [ world ], toPorts: [ { ports: [ { port: '2' } ] } ] }
    - { fromEntities: [ host ], toPorts: [ { ports: [ { port: '3' } ] } ] }
    - { fromEntities: [ cluster ], toPorts: [ { ports: [ { port: '4' } ] } ] }
    - { fromEntities: [ world-ipv6 ], toPorts: [ { ports: [ { port: '5' } ] } ] }
    - { fromEntities: [ remote-node, health ], toPorts: [ { ports: [ { port: '6' } ] } ] }
    - { fromEndpoints: [ { matchLabels: { 'reserved:world': '' } } ], toPorts: [ { ports: [ { port: '7' } ] } ] }
",
        rows: "
            in  unknown   api:1/tcp  allow shop/e#ingress[0]
            in  twin      api:1/tcp  allow shop/e#ingress[0]
            in  world     api:2/tcp  allow shop/e#ingress[1]
            in  unknown   api:2/tcp  deny  shop/e
            in  web       api:2/tcp  deny  shop/e
            in  host      api:3/tcp  allow shop/e#ingress[2]
            in  unmanaged api:3/tcp  deny  shop/e
            in  web       api:4/tcp  allow shop/e#ingress[3]
            in  odd       api:4/tcp  allow shop/e#ingress[3]
            in  host      api:4/tcp  allow shop/e#ingress[3]
            in  unmanaged api:4/tcp  allow shop/e#ingress[3]
            in  unknown   api:4/tcp  deny  shop/e
            in  world     api:4/tcp  deny  shop/e
            in  twin      api:4/tcp  deny  shop/e
            in  world6    api:5/tcp  allow shop/e#ingress[4]
            in  world     api:5/tcp  deny  shop/e
            in  host      api:6/tcp  deny  shop/e
            in  world     api:7/tcp  allow shop/e#ingress[6]
            in  web       api:7/tcp  deny  shop/e
        ",
    },
    Group {
        about: "addresses are those of outsiders",
        documents: "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: cidr, namespace: shop }
spec:
  endpointSelector: { matchLabels: { app: web } }
  egress:
    - toCIDR: [ 203.0.113.9, 10.0.0.0/8 ]
      toPorts: [ { ports: [ { port: '80', protocol: TCP } ] } ]
    - toCIDRSet: [ { cidr: 198.51.100.0/24, except: [ 198.51.100.128/25 ] } ]
    - toEntities: [ world ]
      toPorts: [ { ports: [ { port: '443', endPort: 445, protocol: ANY } ] } ]
    - toEndpoints: [ { matchLabels: { app: api } } ]
",
        rows: "
            out web world:80/tcp                allow shop/cidr#egress[0]
            out web world@203.0.113.8:80/tcp    deny  shop/cidr
            out web unknown:80/tcp              allow shop/cidr#egress[0]
            out web db:80/tcp                   deny  shop/cidr
            out web host:80/tcp                 deny  shop/cidr
            out web world@198.51.100.7:9/udp    allow shop/cidr#egress[1]
            out web world@198.51.100.200:9/udp  deny  shop/cidr
            out web world:444/tcp               allow shop/cidr#egress[2]
            out web world:445/udp               allow shop/cidr#egress[2]
            out web world:446/tcp               deny  shop/cidr
            out web api:9/udp                   allow shop/cidr#egress[3]
            out web batch:9/udp                 deny  shop/cidr
        ",
    },
    Group {
        about: "deny rules, and when they deny by default",
        documents: "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: d, namespace: shop }
spec:
  endpointSelector: { matchLabels: { app: api } }
  ingress: [ { fromEntities: [ all ] } ]
  ingressDeny:
    - fromEndpoints: [ { matchLabels: { app: batch } } ]
    - fromEntities: [ cluster ]
      toPorts: [ { ports: [ { port: '22' } ] } ]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: only-deny, namespace: data }
spec:
  endpointSelector: { matchLabels: { app: db } }
  ingressDeny: [ { fromEntities: [ world ] } ]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: soft, namespace: data }
spec:
  endpointSelector: { matchLabels: { app: cache } }
  enableDefaultDeny: { ingress: false, egress: true }
  ingressDeny: [ { fromEntities: [ world ] } ]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: soft-allow, namespace: payments }
spec:
  endpointSelector: {}
  enableDefaultDeny: { ingress: false }
  ingress: [ { fromEntities: [ world ] } ]
",
        rows: "
            in  web     api:80/tcp   allow shop/d#ingress[0]
            in  world   api:80/tcp   allow shop/d#ingress[0]
            in  batch   api:80/tcp   deny  shop/d#ingressDeny[0]
            in  web     api:22/tcp   deny  shop/d#ingressDeny[1]
            in  unknown api:22/udp   deny  shop/d#ingressDeny[1]
            in  twin    api:22/tcp   deny  shop/d#ingressDeny[1]
            in  world   api:22/tcp   allow shop/d#ingress[0]
            in  world   db:80/tcp    deny  data/only-deny#ingressDeny[0]
            in  web     db:80/tcp    deny  data/only-deny
            in  world   cache:80/tcp deny  data/soft#ingressDeny[0]
            in  web     cache:80/tcp allow -
            out cache   web:80/tcp   deny  data/soft
            in  world   pay:80/tcp   allow payments/soft-allow#ingress[0]
            in  web     pay:80/tcp   allow -
        ",
    },
    Group {
        about: "empty rules, empty lists, several specs",
        documents: "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: shut, namespace: data }
spec:
  endpointSelector: {}
  ingress: [ {} ]
  egress: []
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: two, namespace: shop }
specs:
  - endpointSelector: { matchLabels: { app: web } }
    ingress: [ { fromEndpoints: [] } ]
  - endpointSelector: { matchLabels: { app: api } }
    ingress: [ { toPorts: [ { ports: [ { port: '80' } ] } ] }, { fromEndpoints: [ {} ], toPorts: [ {} ] } ]
",
        rows: "
            in  web   db:80/tcp    deny  data/shut
            in  db    cache:80/tcp deny  data/shut
            out db    world:80/tcp allow -
            in  api   web:80/tcp   deny  shop/two
            in  world api:80/tcp   allow shop/two#ingress[0]
            in  world api:81/tcp   deny  shop/two
            in  web   api:81/tcp   deny  shop/two
        ",
    },
    Group {
        about: "the whole cluster",
        documents: "
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: { name: wide }
spec:
  endpointSelector: { matchLabels: { tier: back } }
  ingress:
    - fromEndpoints: [ { matchLabels: { tier: front } } ]
      toPorts: [ { ports: [ { port: '1' } ] } ]
    - fromEndpoints: [ {} ]
      toPorts: [ { ports: [ { port: '2' } ] } ]
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: { name: one-namespace }
spec:
  endpointSelector: { matchLabels: { 'k8s:io.kubernetes.pod.namespace': payments } }
  egressDeny: [ { toEndpoints: [ {} ] } ]
  enableDefaultDeny: { egress: false }
",
        rows: "
            in  web     db:1/tcp    allow wide#ingress[0]
            in  twin    db:1/tcp    allow wide#ingress[0]
            in  pay     api:1/tcp   allow wide#ingress[0]
            in  batch   api:1/tcp   deny  wide
            in  batch   api:2/tcp   allow wide#ingress[1]
            in  odd     db:2/udp    allow wide#ingress[1]
            in  unknown db:2/tcp    deny  wide
            in  web     cache:3/tcp allow -
            out pay     web:80/tcp  deny  one-namespace#egressDeny[0]
            out pay     world:1/tcp deny  one-namespace#egressDeny[0]
            out web     world:1/tcp allow -
        ",
    },
    Group {
        about: "what is in the connection, proof, ICMP",
        documents: "
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: c, namespace: shop }
spec:
  endpointSelector: { matchLabels: { app: api } }
  ingress:
    - fromEndpoints: [ { matchLabels: { app: web } } ]
      toPorts:
        - { ports: [ { port: '80' } ], rules: { http: [ { method: GET } ] } }
        - { ports: [ { port: '81' } ] }
    - fromCIDR: [ 10.0.0.0/8 ]
      authentication: { mode: required }
      toPorts: [ { ports: [ { port: '82' } ] } ]
    - authentication: { mode: required }
      toPorts: [ { ports: [ { port: '83' } ] } ]
    - { icmps: [ { fields: [ { type: 8 } ] } ] }
    - fromEndpoints: [ { matchLabels: { app: batch } } ]
      toPorts: [ { ports: [ { port: http } ] }, { ports: [ { port: '0', protocol: UDP } ] } ]
  egress:
    - { toFQDNs: [ { matchName: example.org } ] }
    - toEndpoints: [ { matchLabels: { app: web } } ]
  egressDeny:
    - icmps: [ { fields: [ { type: EchoRequest, family: IPv6 } ] } ]
",
        rows: "
            in  web     api:80/tcp    deny  shop/c
            in  web     api:81/tcp    allow shop/c#ingress[0]
            in  unknown api:82/tcp    deny  shop/c
            in  web     api:82/tcp    deny  shop/c
            in  web     api:83/tcp    allow shop/c#ingress[2]
            in  unknown api:83/tcp    deny  shop/c
            in  web     api:proto/1   deny  shop/c
            in  batch   api:80/tcp    deny  shop/c
            in  batch   api:9/udp     allow shop/c#ingress[4]
            out api     world:443/tcp deny  shop/c
            out api     web:443/tcp   allow shop/c#egress[1]
            out api     web:proto/58  deny  shop/c#egressDeny[0]
            out api     web:proto/1   allow shop/c#egress[1]
        ",
    },
];
