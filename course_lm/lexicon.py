"""Words and sentence frames from which course-lm's training and test items are made.

Frames are strings with slots: A actor, O object, T time span, G trigger, R role, C channel, M amount, P period,
Z regime, N condition, W reason, D date, X invented term, n article number, d document kind, v/vs/vp a verb (base, third
person, participle). A frame pairs sentences with questions of the same kind; ``O2`` and ``vp2`` in a question are the
object and the verb in other words.
"""

from __future__ import annotations

ACTORS = """the controller|the processor|the bank|the payment institution|the issuer|the acquirer|the service desk|the
payments
team|the privacy office|the security team|the platform team|the operations team|the risk function|the compliance
function|the
internal audit function|the procurement team|the supplier|the vendor manager|the product owner|the branch|the trading
desk|the
treasury team|the finance team|the legal team|the incident manager|the line manager|the data steward|the model owner|
the reviewer|
the customer service team|the fraud team|the onboarding team|the reconciliation team|the settlement team|the release
manager|the
on-call engineer|the records team|the outsourcing office|the trustee|the custodian|the broker|the administrator|the
operator|the
provider|the deployer|the importer|the distributor|the firm|the credit institution|the investment firm|the
manufacturer|the
claims team|the training team|the complaints team"""

ROLES = """the data protection officer|the chief risk officer|the head of compliance|the head of operations|the chief
information security officer|the money laundering reporting officer|the general counsel|the board|the audit committee|
the
risk committee|the chief financial officer|the head of internal audit|the duty manager|the branch manager|the product
owner|the model risk committee|the change advisory board|the head of procurement|the incident commander|the treasury
committee|the head of payments|the chief technology officer|the privacy office|the legal team|the outsourcing officer|
two
senior managers|the management body|the head of human resources|the service owner|the information owner|the works
council"""

# Base | third person | participle | other words for the participle
VERBS = """report|reports|reported|notified,sent,passed on
notify|notifies|notified|informed,told,reported
review|reviews|reviewed|checked,looked over,re-examined
approve|approves|approved|signed off,authorised,agreed
record|records|recorded|logged,written down,registered
delete|deletes|deleted|erased,removed,destroyed
archive|archives|archived|stored,kept,filed
escalate|escalates|escalated|raised,passed up
encrypt|encrypts|encrypted|protected,ciphered
test|tests|tested|tried,exercised,checked
update|updates|updated|refreshed,revised,changed
submit|submits|submitted|sent,handed in,filed
assess|assesses|assessed|evaluated,judged,rated
document|documents|documented|written down,recorded
renew|renews|renewed|extended,prolonged
revoke|revokes|revoked|withdrawn,cancelled,removed
suspend|suspends|suspended|stopped,paused,frozen
reconcile|reconciles|reconciled|matched,compared
investigate|investigates|investigated|examined,looked into
verify|verifies|verified|checked,confirmed,proved
close|closes|closed|finished,ended
publish|publishes|published|released,made public
acknowledge|acknowledges|acknowledged|confirmed,answered
retain|retains|retained|kept,stored,preserved
correct|corrects|corrected|fixed,rectified
refund|refunds|refunded|paid back,returned
block|blocks|blocked|stopped,refused
monitor|monitors|monitored|watched,observed
restore|restores|restored|recovered,brought back
classify|classifies|classified|graded,rated
sign|signs|signed|executed,countersigned
rotate|rotates|rotated|changed,replaced
destroy|destroys|destroyed|deleted,erased,shredded
answer|answers|answered|replied to,responded to
validate|validates|validated|checked,confirmed
screen|screens|screened|checked,filtered
register|registers|registered|entered,recorded
disclose|discloses|disclosed|revealed,made known
back up|backs up|backed up|copied,saved"""

# First word of an object; a few carry another word for questions.
MODIFIERS = """supplier=vendor|customer=client|payment|card|personal|employee=staff|contract|incident|transaction|
access|
credit|trade=trading|cash|model|audit|security|cloud|outsourced|privileged|dormant|corporate|retail|cross-border|
high-risk=risky|
internal|external=outside|annual=yearly|critical|emergency=urgent|temporary|biometric|marketing|training|settlement|
collateral|liquidity|mortgage|loan=lending|insurance|pension|payroll=salary|tax|voice|chat|email=mail|web|mobile|
branch|
merchant|fraud|complaint|whistleblowing|consent|cookie|sanctions|beneficial|politically exposed|correspondent|foreign|
instant|recurring|failed|disputed|duplicate|suspicious=unusual|encrypted|backup|test|production=live|firewall|network|
endpoint|third-party=external|intragroup|major=serious|minor=small|severe|unresolved=open|expired|incomplete|new|
large=big|monthly|weekly|daily|draft|final|late=overdue|early|signed|unsigned|digital=electronic|paper|written|
oral=spoken|remote|local|regional|national|global=worldwide|legal|medical=health|technical|financial|commercial|
public|confidential=secret|anonymous|joint=shared|single|partial=incomplete|full=complete|closed|pending|
rejected=refused|approved|frozen|archived|legacy=old|experimental|automated=automatic|manual=hand-made|domestic|
maritime|agricultural|municipal|wholesale|subordinated|secured|unsecured|inbound=incoming|outbound=outgoing|nightly|
quarterly|statutory|voluntary=optional|interim"""

NOUNS = """records|contracts=agreements|logs|requests|accounts|files|data|reports|reviews|incidents=events|breaches|
payments|
transfers|invoices=bills|statements|complaints|recordings|certificates|passwords|keys|backups|changes=modifications|
models|
alerts=warnings|exceptions=waivers|limits=ceilings|exposures|positions|orders|trades|documents|notices|consents|
policies|
registers|assessments=evaluations|audits|findings|tests|plans|vulnerabilities=weaknesses|patches|devices=machines|
credentials|permissions=rights|entitlements|tokens|photographs|applications|interviews|trainings=courses|minutes|
valuations|reconciliations|chargebacks|refunds|fees=charges|loans|guarantees|instructions|mandates|confirmations|
disputes|
profiles|scores|datasets|prompts|outputs|screenings|checks|licences|subscriptions|visits|inspections|deposits|
withdrawals|vouchers|ledgers|proofs=evidence|samples|warrants|drafts=outlines|seals|archives|forms=templates|
surveys=polls|seminars|laptops=computers|phones|badges|cameras|sensors|servers=hosts|queries=searches|scripts|
images=pictures|letters|messages|offers=quotes|tenders=bids|shipments=deliveries|parcels|bonds|shares=stocks|options|
futures|leases|premiums|claims|benefits|bonuses|gifts=presents|trips=travel|meetings|decisions|votes|
appeals=objections|reminders|corrections|overrides|shutdowns=outages|upgrades|migrations|releases|roles|groups|
vendors|auditors|visitors=guests|trainees"""

TRIGGERS = """after becoming aware of it|after receipt|after the contract ends|after the account is closed|of
detection|of
receiving the request|after the decision|after the event|of the end of the quarter|after the employee leaves|after the
transaction|after approval|of discovery|after the audit report|before the change goes live|of the complaint|after the
relationship ends|before the meeting|of classification|after the last payment|after the test|after publication|of the
request|of the month end|after signature|after the first alert|after the review|of the incident|after expiry"""

CHANNELS = """the incident portal|the compliance mailbox|the ticket system|the secure upload page|the duty phone|the
case
management tool|the supplier portal|the audit register|the records vault|the change calendar|the risk register|the
regulator's web form|the encrypted mail gateway|the service desk|the hotline|the archive in the second data centre|the
document store|the key vault|the central register|the configuration database|the read-only archive|the legal hold
folder"""

NEEDS = """a second signature|a written justification|a risk assessment|the approval of two managers|a transfer impact
assessment|an exit plan|enhanced due diligence|strong customer authentication|an independent valuation|a named owner|a
rollback plan|a security review|proof of identity|a signed confidentiality agreement|a penetration test|a data
protection
impact assessment|a legal opinion|a ticket number|evidence of the source of funds|human review|a four-eyes check|a
business case|a recorded call|a cooling-off period|a conflict check|an entry in the register|a stamped receipt"""

PERIODS = """day|week|month|quarter|year|two weeks|three months|six months|two years|three years|18 months|
working day|
Monday|ten days|90 days|five years"""

REGIMES = """GDPR|DORA|PSD2|MiFID II|the AI Act|Basel III|EMIR|MAR|AMLR|the Data Act|NIS2|CRR|SFDR|eIDAS|MiCA|the
ePrivacy
Directive|the Accounting Directive|the Outsourcing Policy|the Records Standard|the Access Policy|the Model Risk
Policy"""

INVENTED_KINDS = "Directive|Regulation|Act|Standard|Code|Policy|Charter|Circular|Guideline|Rulebook|Notice"

DOCUMENT_KINDS = """policy|procedure|standard|schedule|reference note|handbook|guideline|playbook|register|checklist|
notice|runbook|memo|overview|rules|requirements"""

# Each kind: (sentences, questions). Sentences and questions pair freely within one kind. The last sentence and the last
# two questions of each kind are for the test alone.
FRAMES: dict[str, tuple[str, str]] = {
    "deadline": (
        """{A} must {v} {O} within {T} {G}.|{O} must be {vp} within {T} {G}.|Within {T} {G}, {A} {vs} {O}.|
{A} {vs} {O} no later
than {T} {G}.|{A} has {T} to {v} {O}.|The deadline to {v} {O} is {T} {G}.|{O} are {vp} by {A} at most {T} {G}.|Under
{Z}, {O} have to be {vp} within {T}.|{A} {vs} {O} to {R} within {T} {G}.|No later than {T} {G}, {O} are {vp}.|{A} {vs}
{O} in at most {T}.|The time limit to {v} {O} is {T}.|{O} have to be {vp} by {A} not later than {T} {G}.|The deadline
for {O} is {T} {G}.|For {O}, the time limit is {T} {G}.""",
        """How soon must {O2} be {vp2}?|What is the deadline for {O2} to be {vp2}?|
Within what time does {A} {v} {O2}?|How long
does {A} have to {v} {O2}?|How many days or hours are there to {v} {O2}?|By when must {O2} be {vp2}?|When must {A} {v}
{O2}?|How quickly must {A} {v} {O2}?|How fast does {A} {v} {O2}?|What is the latest time for {O2} to be {vp2}?|When is
the deadline for {O2}?|How much time is there for {O2}?|What time limit applies when {A} {vs} {O2}?|How fast do {O2}
have to be {vp2} by {A}?|What is the time limit for {O2}?""",
    ),
    "retention": (
        """{O} are kept for {T} {G}.|{A} keeps {O} for {T}.|{O} must be retained for {T} {G}.|
{A} stores {O} for {T} {G} and then
deletes them.|The retention period for {O} is {T}.|{O} are deleted {T} {G}.|{Z} requires {O} to be kept for at least
{T}.|{O} are held for {T} and then destroyed.|{A} retains {O} for {T} {G}.|Keep {O} for {T} {G}.|{O} may be stored for
no longer than {T}.|After {T}, {O} are erased.|{O} stay in {C} for {T}.""",
        """How long are {O2} kept?|What is the retention period for {O2}?|For how long must {A} keep {O2}?|
How many years are
{O2} stored?|When are {O2} deleted?|How long does {A} hold on to {O2}?|For how many months are {O2} retained?|How long
may {O2} be stored?|After what time are {O2} erased?|How long do {O2} stay with us?|What storage period applies to
{O2}?|How long must {O2} be held?|For what time do we store {O2}?|How long do we have to retain {O2}?""",
    ),
    "approval": (
        """{R} approves {O}.|{O} need the approval of {R}.|{O} are approved by {R}.|Only {R} may approve {O}.|
{R} signs off {O}
before {A} acts.|Approval of {O} rests with {R}.|{O} may start only after {R} has agreed.|{R} decides on {O}.|{O} are
signed off by {R}.|{A} asks {R} to approve {O}.|{R} must agree to {O} in writing.|No {O} without the approval of
{R}.|{A} may {v} {O} only with the written consent of {R}.""",
        """Who approves {O2}?|Whose approval do {O2} need?|Who signs off {O2}?|Who may approve {O2}?|
Who has to agree to
{O2}?|Who authorises {O2}?|Who decides on {O2}?|Whose consent is needed for {O2}?|By whom are {O2} approved?|Who gives
the approval for {O2}?|Which body approves {O2}?|Whose agreement does {A} need for {O2}?|Who must consent to
{O2}?|Which role decides on {O2}?""",
    ),
    "responsible": (
        """{R} is responsible for {O}.|{R} owns {O}.|{A} {vs} {O}.|{O} are {vp} by {R}.|
Responsibility for {O} lies with {R}.|{R}
leads the work on {O}.|{R} looks after {O}.|{O} belong to {R}.|{R} takes care of {O}.|{A} handles {O}.|The owner of
{O} is {R}.|{A} is in charge of {O}.""",
        """Who is responsible for {O2}?|Who owns {O2}?|Who looks after {O2}?|Which team is in charge of {O2}?|
Who handles
{O2}?|Who is the owner of {O2}?|With whom lies the responsibility for {O2}?|Who deals with {O2}?|Who is in charge of
{O2}?|Which role owns {O2}?|Who leads on {O2}?|To whom do {O2} belong?|Who takes care of {O2}?""",
    ),
    "frequency": (
        """{A} {vs} {O} every {P}.|{O} are {vp} every {P}.|Every {P}, {A} {vs} {O}.|
{O} are {vp} at least once every {P}.|A
review of {O} takes place every {P}.|Once every {P}, {O} are {vp} by {A}.|{O} must be {vp} at least every {P}.|{O} are
{vp} by {R} every {P}.|The cycle for {O} is one {P}.|{A} has to {v} {O} every {P}.|{R} receives a report on {O} every
{P}.""",
        """How often are {O2} {vp2}?|How often does {A} {v} {O2}?|How frequently are {O2} {vp2}?|
At what interval are {O2}
{vp2}?|What is the cycle for {O2}?|How frequently does {A} {v} {O2}?|How regularly are {O2} {vp2}?|What is the
interval for {O2}?|How often must {O2} be {vp2}?|Every how many months are {O2} {vp2}?|How often do we see {O2}
{vp2}?|In what cycle does {A} {v} {O2}?|How many times are {O2} {vp2}?""",
    ),
    "threshold": (
        """{O} above {M} need {N}.|{O} of more than {M} require {N}.|From {M} upwards, {O} need {N}.|
The limit for {O} is
{M}.|{A} may handle {O} up to {M}.|{O} are capped at {M}.|The threshold for {O} is {M}.|The ceiling for {O} is
{M}.|{O} may reach {M} at most.|{O} must not exceed {M}.|At most {M} is allowed for {O}.|{A} {vs} {O} above {M}.|{O}
over {M} are {vp} by {R}.""",
        """What is the limit for {O2}?|Above what amount do {O2} need {N}?|What is the threshold for {O2}?|
From which amount are
extra checks needed for {O2}?|How much is allowed for {O2}?|Up to what amount may {A} handle {O2}?|What is the ceiling
for {O2}?|What amount must {O2} not exceed?|How large may {O2} be?|What is the maximum for {O2}?|How much may {O2}
reach?|What is the highest amount for {O2}?|How high may {O2} be?""",
    ),
    "channel": (
        """{O} are {vp} through {C}.|{A} {vs} {O} in {C}.|{O} are kept in {C}.|All {O} go to {C}.|
{A} uses {C} for {O}.|{O} must
be entered in {C}.|{O} are filed in {C}.|Use {C} for {O}.|{A} puts {O} into {C}.|{O} are sent to {C}.|{C} holds
{O}.|Send {O} to {C}.""",
        """Where are {O2} {vp2}?|Where do {O2} go?|Which tool is used for {O2}?|Through which channel are {O2} {vp2}?|
Where does
{A} put {O2}?|Where are {O2} filed?|What tool holds {O2}?|In which system are {O2} {vp2}?|To what place do we send
{O2}?|Where must {O2} be entered?|Where can I find {O2}?|Which place is right for {O2}?|Where are {O2} kept?""",
    ),
    "condition": (
        """{O} require {N}.|{A} may {v} {O} only with {N}.|Before {O} are {vp}, {N} is needed.|
{N} is required for {O}.|Without
{N}, {O} are not {vp}.|{A} asks for {N} before it {vs} {O}.|{O} call for {N}.|{A} needs {N} to {v} {O}.|{N} must be in
place before {O} are {vp}.|A precondition for {O} is {N}.|{O} depend on {N}.|{O} are {vp} only when there is {N}.""",
        """What is required for {O2}?|What is needed before {O2} are {vp2}?|What do {O2} require?|
What does {A} need to {v}
{O2}?|Under what condition are {O2} {vp2}?|What is the precondition for {O2}?|What must be there before {O2} are
{vp2}?|What do {O2} depend on?|What do {O2} call for?|Which condition holds for {O2}?|When may {O2} be {vp2}, under
which requirement?|What has to be in place to {v} {O2}?|What must be in place for {O2}?""",
    ),
    "prohibition": (
        """{A} must not {v} {O} without {N}.|{O} must never be {vp}.|{A} may not {v} {O}.|It is forbidden to {v} {O}.|
{O} are not
allowed in {C}.|{O} must not be {vp} before {R} agrees.|Never {v} {O}.|{A} is not allowed to {v} {O}.|Nobody may {v}
{O}.|{O} are forbidden.|It is not permitted to {v} {O} without {N}.|
{A} is not permitted to {v} {O} before {R} agrees.""",
        """May {A} {v} {O2}?|Is it allowed to {v} {O2}?|Can {O2} be {vp2}?|Is {A} permitted to {v} {O2}?|
Are {O2} forbidden?|May
we {v} {O2}?|Is it forbidden to {v} {O2}?|Can {A} {v} {O2}?|Are we permitted to {v} {O2}?|What is not allowed with
{O2}?|What must nobody do with {O2}?|What is prohibited about {O2}?|What is forbidden about {O2}?""",
    ),
    "article": (
        """Article {n} of {Z} covers {O}.|Article {n} of {Z} requires {A} to {v} {O}.|
Under Article {n} of {Z}, {A} {vs} {O}
within {T}.|{Z}, Article {n}: {O} must be {vp} by {A}.|Article {n} of {Z} gives {A} {T} to {v} {O}.|Article {n} says
that {O} need {N}.|Article {n} of {Z} deals with {O}.|According to Article {n} of {Z}, {O} are {vp} every {P}.|Article
{n} of {Z} forbids {A} to {v} {O}.|The rule on {O} stands in Article {n} of {Z}.|{O} are governed by Article {n} of
{Z}.""",
        """What does Article {n} of {Z} require?|What does Article {n} say?|
What is the content of Article {n} of {Z}?|What does
{Z} say in Article {n}?|Which article covers {O2}?|Which article of {Z} is about {O2}?|What is in Article {n}?|What is
Article {n} of {Z} about?|Where in {Z} are {O2} covered?|Which article deals with {O2}?|What rule stands in Article
{n}?|What follows from Article {n}?""",
    ),
    "definition": (
        """{X} means {O} that were {vp} by {A}.|{X} is the name for {O}.|The term {X} stands for {O} above {M}.|
{X} is {C} for
{O}.|{X} covers {O}.|{X} is short for {O}.|{X} refers to {O}.|As {X} we define {O} above {M}.|We call {O} {X}.|{X}:
{O} that {R} owns.|By {X} we mean {O}.""",
        """What does {X} mean?|What is {X}?|How is {X} defined?|What is meant by {X}?|
What does the term {X} stand for?|What is
{X} short for?|What does {X} refer to?|Define {X}.|What do we call {X}?|What is the meaning of {X}?|Explain the term
{X}.|Explain {X}.""",
    ),
    "contents": (
        """{O} state the date, the cause and {N}.|A report on {O} names {R}, the date and the amount.|
{O} contain {N} and the
name of {R}.|The file on {O} includes {N}.|{O} list the owner, {N} and the date.|{O} hold the reason, the date and
{N}.|The record of {O} shows {N} and the amount.|{O} must name {R} and {N}.|{O} consist of {N} and a summary.|{A}
lists the owner, the purpose and {N} for {O}.""",
        """What do {O2} contain?|What must {O2} include?|Which details belong in {O2}?|
What information is recorded for
{O2}?|What do {O2} state?|What must be named in {O2}?|What do {O2} consist of?|Which items do {O2} hold?|What is shown
in the record of {O2}?|What content do {O2} need?|What details are listed in {O2}?|What is listed for {O2}?""",
    ),
    "penalty": (
        """The fine for {O} is up to {M}.|Breaking the rule on {O} costs up to {M}.|{Z} allows fines of {M} for {O}.|
{A} pays {M}
when {O} are not {vp}.|A fine of {M} applies to {O}.|Who breaks the rule on {O} pays {M}.|The penalty for {O} is
{M}.|{O} that are not {vp} cost {A} {M}.|{R} can impose a penalty of {M} for {O}.|
The maximum penalty for {O} is {M}.""",
        """What is the fine for {O2}?|How high is the penalty for {O2}?|What does it cost when {O2} are not {vp2}?|
What is the
maximum fine for {O2}?|How large is the fine for {O2}?|What must {A} pay for {O2}?|What penalty is there for {O2}?|How
much is the penalty for {O2}?|What fines apply to {O2}?|What does {Z} allow as a fine for {O2}?|Which fine can be
imposed for {O2}?|Which penalty applies to {O2}?""",
    ),
    "consequence": (
        """If {O} are not {vp}, {A} informs {R}.|When {O} fail, {A} stops the process.|
If {A} does not {v} {O}, {R} steps
in.|After {O}, {A} opens a ticket in {C}.|If {O} are missing, {A} calls {R}.|When {A} finds {O}, it tells {R}.|If
there are {O}, {A} must {v2} them.|In case of {O}, {A} uses {C}.|As soon as {O} appear, {R} is informed.|When {O} are
found, {A} must {v2} them at once.""",
        """What happens if {O2} are not {vp2}?|What happens when {O2} fail?|What does {A} do about {O2}?|
What follows when {A}
does not {v} {O2}?|What happens in case of {O2}?|What does {A} do when there are {O2}?|What is the next step after
{O2}?|What if {O2} are missing?|What happens when {O2} appear?|What must be done in case of {O2}?|What do we do when
{O2} are found?|What is done about {O2}?""",
    ),
    "recipient": (
        """{A} reports {O} to {R}.|{O} are passed on to {R}.|{R} is told about {O}.|{A} informs {R} of {O}.|
{O} must be sent to
{R}.|{R} gets a copy of {O}.|{A} notifies {R} of {O} within {T}.|Tell {R} about {O}.|{O} are addressed to {R}.|{R} is
notified of {O}.|{A} shares {O} with {R} only.""",
        """Who is told about {O2}?|To whom are {O2} reported?|Who is informed of {O2}?|Whom does {A} inform of {O2}?|
Who receives
{O2}?|Who gets a copy of {O2}?|To whom does {A} report {O2}?|Who must be notified of {O2}?|Whom do we tell about
{O2}?|To which role are {O2} sent?|Who hears about {O2}?|With whom are {O2} shared?""",
    ),
    "reason": (
        """{O} are {vp} because {W}.|Because {W}, {A} {vs} {O}.|{A} {vs} {O}, since {W}.|
The reason for {O} is that {W}.|{O}
matter because {W}.|As {W}, {O} are {vp}.|{W}, so {O} are {vp}.|{O} exist because {W}.|{A} began to {v} {O} because
{W}.|The ground for {O}: {W}.""",
        """Why are {O2} {vp2}?|Why does {A} {v} {O2}?|What is the reason for {O2}?|For what reason are {O2} {vp2}?|
Why do {O2}
matter?|Why do {O2} exist?|Why must {O2} be {vp2}?|What explains {O2}?|What is the ground for {O2}?|Why do we have
{O2}?|What is the purpose of {O2}?""",
    ),
    "scope": (
        """{Z} applies to {O}.|{O} fall under {Z}.|{Z} does not apply to {O}.|{O} are exempt from {Z}.|
{Z} covers {A} and
{O}.|{O} are outside {Z}.|The scope of {Z} is {O} in {C}.|{Z} is limited to {O}.|{O} above {M} are subject to {Z}.|{Z}
concerns {O}.""",
        """What does {Z} apply to?|Do {O2} fall under {Z}?|Which rules apply to {O2}?|Is {Z} relevant for {O2}?|
What is the scope
of {Z}?|Are {O2} exempt from {Z}?|Does {Z} apply to {O2}?|What is {Z} limited to?|Are {O2} subject to {Z}?|What does
{Z} concern?|Under which rules do {O2} fall?""",
    ),
    "start": (
        """The rule on {O} applies from {D}.|{O} must be {vp} from {D}.|{A} {vs} {O} from {D} on.|
{Z} entered into force on {D}
for {O}.|Since {D}, {O} have been {vp}.|From {D}, {O} need {N}.|{O} end on {D}.|{A} stops {O} on {D}.|The next date
for {O} is {D}.|{O} are due on {D}.""",
        """From when does the rule on {O2} apply?|From what date must {O2} be {vp2}?|Since when have {O2} been {vp2}?|
When do
{O2} end?|When did {Z} enter into force for {O2}?|On what date are {O2} due?|What is the date for {O2}?|What is the
next date for {O2}?|From which day do {O2} count?|When do {O2} start or end?|Which date applies to {O2}?""",
    ),
}  # fmt: skip

REASONS = """auditors found gaps|the regulator asks for it|customers complained|an old system failed|
the contract says so|the law
changed|a breach went unseen|errors were found late|the board decided so|costs had doubled|two copies disagreed|a
supplier went bankrupt|fraud had risen|evidence was lost|the risk is high|one person held all keys|a test had
failed|prices moved fast|nobody owned them|the insurer demands it"""

FILLER = """This page is reviewed together with the {d}.|Earlier versions stay available for reference.|
Questions go to {R}.|The
wording follows the group standard.|Local rules may be stricter.|It applies to all business lines.|The annex gives
examples.|It replaces the older text.|Terms have the meaning of the glossary.|Staff confirm that they have read
it.|The {d} was last revised by {R}.|Examples are given below.|See the {d} for details.|Translations are for
convenience only."""
