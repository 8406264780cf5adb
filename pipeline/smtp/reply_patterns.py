"""Patterns for the text of SMTP replies, used by `replies`; names are removed before matching.

Patterns for a mailbox that is gone come from real replies and bounces only: a phrase that also fits
an existing mailbox ("rejected", "denied", "unable to deliver") is left out. Patterns for failures
on our side may be broad, since a wrong match costs one more mail.
"""

# Letters of different scripts look alike.
# ruff: noqa: RUF001

from __future__ import annotations

import re
from typing import Final


def _any(*phrases: str) -> re.Pattern[str]:
    return re.compile("|".join(phrases), re.I)


# --- Removed before classification --------------------------------------------------------------

REMARKS: Final = _any(
    # advice to a person who sent the mail by hand; no evidence about us
    r"(that )?you('re| are| were| have)? (tried|tr(y|ying)|want(ed)?|wish|attempt(ed|ing)?) to"
    r" (reach|contact|send|deliver|mail|e-?mail)( (mail|e-?mail|messages?) to| to)?",
    r"(that )?you('re| are) (contacting|sending to|mailing)|your (intended )?recipients?('s)?",
    r"(return(ed|ing|s)?|bounced?|sent|send|going)( it| this| the| your)?( message| mail"
    r"| e-?mail)?"
    r"( back)? to (the |its )?(original )?sender|(notify|inform|tell) (the|your) sender",
    r"the sender of (this|the) message (should|must|can|may)|if you (believe|feel|think) .{0,200}",
    r"(please )?check (for|the) (typos|spelling|address|recipient).{0,60}"
    r"|not (considered )?spam\b",
    r"contact .{0,40}\babuse\b|in reply to [^)]{0,40}|,? ?\brelay=\S{0,80}( IPNUMBER)?"
    r"|(while talking to |\bhost )[^;]{0,6}\[? ?IPNUMBER ?\]? said"
    r"|(?<=address: )host\s+\[? ?IPNUMBER ?\]?",
)
GOOGLE_PAGE: Final = re.compile(r"support\.google\.com/mail/?\S{0,40}[?&]p=(\w{1,40})", re.I)
BLOCKLIST: Final = _any(
    r"spamhaus|spamcop|barracuda(central|networks)|sorbs|abuseat|uceprotect|cloudmark|invaluement",
    r"senderbase|senderscore|talosintelligence|ipcheck\.proofpoint|mailspike|psbl|surbl|uribl",
    r"\bdns[bw]l|\b\w{0,4}rbl\w{0,4}\b|\bdrbl|hostkarma|junkemailfilter|mail-abuse|cobion|0spam"
    r"|backscatterer|truncate\.gbudb|black.?list|block.?list|delist|sender\.office|spamrl|unblock"
    r"|spfbl|nixspam|manitu|anti-?abuse|0?bl\.(mail|spam)|ixhash|mxtoolbox|reputation",
)

# --- About us -----------------------------------------------------------------------------------

PASSING_CHECK: Final = _any(
    r"gr[ae]y.?list|unverified address|call.?(out|back)|address verification in progress",
    r"(unable|could ?n.t|could not|cannot|can't|failed) to verify (the )?(recipient|address|<>)",
)
"""A check of the recipient that has not finished; its result is unknown, even if it quotes one."""

ABOUT_A_SENDER: Final = _any(
    r"(?<!to )(?<!to the )(?<!original )\bsenders?\b|\bmail ?from\b|from (address|header|domain)",
    r"return.?path|envelope.?from|originator|reverse.?path|outbound",
)
ABOUT_US: Final = _any(
    ABOUT_A_SENDER.pattern,
    # our server, its names and its IP address
    r"\bPTR\b|reverse.?(dns|zones?|look|record|host|map|resol|ip|path|address)|\brDNS\b",
    r"\b(HELO|EHLO)\b|client (host|was|address|ip|not|\[|identity)|your (reverse )?host.?name",
    r"(account|address(es)?|ip|hosts?|servers?|clients?|machine|connecti(on|ng)|mails?|messages?"
    r"|user"
    r"|network|from|by|traffic|mta|gateway|relay|rejected|refused|access)\W.{0,12}IPNUMBER",
    r"IPNUMBER.{0,40}(not allowed|denied|rejected|refused|listed|found|reputation|forbidden)",
    r"\b(?-i:IPs?)\b|\bips?[ -]?addr|(sending|source|your|dynamic|bad|access|connecting) ip\b"
    r"|\bIPv[46]\b|\bip[=:]",
    r"(address|name|domain) of (this|your|the (sending|client|connecting)) (machine|host|server"
    r"|system)|(this|connecting|sending|remote|client) (host|machine|mta|server|network)s? "
    r"(is|has|sends?|was|are|not|did|may|must|does)",
    r"\byour (mail )?(ip|hosts?|servers?|domain|network|mta|isp|provider|dns|spf|dkim|client"
    r"|computer|access|connection|system|tenant|organi[sz]ation|reputation|smtp|sending|from|plan"
    r"|behaviou?r|mailer|e-?mail (server|system|provider))\b",
    r"(invalid|no|missing|bad|without|neither|valid).{0,12}\b(mx (or|nor|and) a|a(aaa)? (or|nor"
    r"|and) mx)\b|\bfqdn\b|fully.qualified",
    r"host network|requires? (a )?(encrypt|tls|starttls|high.strength|secure)"
    r"|\bTLS (is )?(required"
    r"|version)|\bSTARTTLS\b|no traffic|you are not (allowed|authori|permitted)"
    r"|not accepting (mail|messages?|e-?mail"
    r"|connections?)|(does|do|will)(n.t| not) accept (mail|messages?|e-?mail|connections?) from"
    r"|register (this|your)|confirm this mail server|forbidden|no thank",
    # our reputation
    r"\bpolic(y|ies)|reputation|\bscore\b|black.?hole|(?<!un)\bblock|black.?list|deny.?list"
    r"|\bblocklist|\bbanned\b|\bban\b|whitelist|allow.?list|DNS[BW]L|\b\w{0,4}[RD]BL\b"
    r"|(?<!not )(?<!be )\blisted (in|at|by|on|as)\b|spamhaus|spamcop|barracuda|cloudmark|sorbs"
    r"|proofpoint|uceprotect|mailspike|invaluement|quarantine|abus(e|ive)|complain|spammer",
    r"\bspam|spam\b|\bjunk|unsolicited|bulk|mass.?mail|\bvirus|malware|malicious|\bphish"
    r"|suspicious"
    r"|suspect|fraud|forged|forgery|spoof|harvest|dictionary|honey.?pot|spam.?trap|bounce attack"
    r"|unusual|fingerprint|content (filter|reject|denied|block|scan|polic|restrict|not)"
    r"|(mail|message) content|profanity|prohibited|not been accepted for delivery",
    r"unauthori[sz]ed|not authori[sz]ed|authori[sz]ation|permission|not (allowed|permitted) to"
    r" (send|relay|connect|submit|use|post|mail|deliver)|access(ed)? (is |was |has been )?deni"
    r"|access den"
    r"|(?<!recipient )access (rule|list|control)|deni?ed by|\bACL\b|unavailable or access",
    r"\brelay(ing|ed)?\b(?!.? (recipient|domains? table|said))|rcpthosts|open proxy",
    r"defers and failures|too many (invalid|bad|unknown|errors|failed|hops for|spam)",
    r"local (rule|configuration rule)|administrative(ly)? (prohib|reject|block|deni)",
    # proprietary codes of SFR, Orange, Free, T-Online, AOL, Yahoo, Microsoft, Tencent
    r"problem occurred|\[?(TSS|IPTS|PH|BL|AU|VS)\d{1,2}\b|\b(RTR|RLY|HVU|CON|DYN|MFF):[A-Z]"
    r"|service refus|OFR_?\d*_?(10[2-9]|[23]\d\d|50[13-9]|51\d|99\d)|\b(OU|SC|DY|RP)-00\d"
    r"|\bS(3150|3140|775|844)\b|\bAS\(?1601\d|IB\d{3}\b|\bMCSpam|\bTPOC?\b",
    # help pages of Gmail
    r"UnsolicitedMessage|UnsolicitedRateLimit|UnsolicitedIP|BlockedMessage|IPv6AuthError"
    r"|UnauthenticatedEmail|NotAuthorizedError|PrivateNotAllowed|RfcMessageNonCompliant"
    r"|DomainNotAllowed",
    # German, French, Spanish, Italian, Portuguese, Dutch
    r"\babsender|blockiert|blocklist|schwarze liste|richtlinie|(?<!postfach )(?<!konto )gesperrt"
    r"|nicht (berechtigt|erlaubt|autorisiert)",
    r"exp[ée]diteur|[ée]metteur|abus d[ée]tect|bloqu[ée]|politique|liste noire|non autoris"
    r"|interdit|ind[ée]sirable",
    r"remitente|remetente|bloquead|lista negra|pol[íi]tica|reputaci[óo]n|reputa[çc][ãa]o"
    r"|no (est[áa] )?autorizad|n[ãa]o (est[áa] )?autorizad|no (est[áa] )?permitid",
    r"mittente|bloccat|black list|non (è )?autorizzat|indesiderat|afzender|geblokkeerd|beleid"
    r"|niet toegestaan",
    # Nordic languages, Polish, Czech, Turkish, Russian
    r"avsändare|afsender|avsender|lähettäj|blokeri|nadawc|zablokowan|czarnej li|polityk"
    r"|odes[íi]latel"
    r"|blokov[áa]n|gönderen|engellen|kara liste",
    r"отправител|\bспам|(?<!пользователь )заблокирован|блокировк|ч[её]рн\w+ спис|репутац|политик"
    r"|запрещ|нежелательн",
    # Chinese, Japanese, Korean
    r"发件|發件|寄件|垃圾|黑名单|黑名單|屏蔽|封禁|信誉|反垃圾|策略|授权|封锁|拦截|攔截",
    r"送信者|送信元|差出人|迷惑メール|スパム|ブラックリスト|ブロック|ポリシー|評価|なりすまし",
    r"발신자|보낸.?사람|스팸|차단|블랙|정책|평판",
)
_PERIOD = (
    r"(daily|hourly|monthly|weekly|per[ -](hour|day|minute|second|month)|\b(an|this|one|every"
    r"|each)"
    r" (hour|minute|day)\b|hour limit|of (the|this) (hour|day|month)\b"
    r"|for today|24.?h(ours?)?\b|in (this|a short) time)"
)
_LIMIT = r"(quota|limit|exceed|too many|maximum|allowance|reached|over)"
OUR_QUOTA: Final = _any(
    r"(quota|limit).{0,12}\bsender|submission.?quota|refuse.?quota|too many (sub|out)",
    rf"{_PERIOD}.{{0,60}}{_LIMIT}|{_LIMIT}.{{0,60}}{_PERIOD}",
    r"\b(send(ing|er)?|outgoing|outbound|submission|relay(ing)?|smtp|transmission|volume|bandwidth"
    r"|traffic|plan|customer|tenant|organi[sz]ation|credits?)\b.{0,25}\b(quota|limits?|allowance"
    r"|exceeded)\b|(quota|limits?) (of|for) (the )?(queue|sending|outgoing|relay|messages|e-?mails"
    r"|recipients|connections)|\be-?mail quota|message quota",
    r"\byour (\w{1,20} ){0,3}(quota|limits?|allowance|credits?)\b|\byou('ve| have| are|'re)?"
    r" (exceed|over|reached|sent|hit|sending) .{0,40}(quota|limit|allowance|rate|messages|mail)"
    r"|you (have )?exceeded",
    r"(maximum|max\.?|number of|amount of).{0,12}(connections|sessions|recipients|messages per"
    r"|e?mails per|credits|defers|requests|sending)",
    r"too many (connections|sessions|concurrent|recipients|requests|simultaneous|mails? from"
    r"|e?mails? from|messages? (from|for|to|in (this|a)|per|sent|received))|(too (much|many)"
    r" (e?mails?|messages) (from|this|per|sent))|sent too (many|much)|(has|have) sent .{0,20}too",
    r"(host|server|client|network|ip) .{0,40}\b(limits?|quota)\b|frequency.{0,20}limit"
    r"|limit.{0,20}"
    r"frequency|\blimited from\b",
    r"rate.?limit|limit.{0,20}\brate\b|\brate (exceed|control|that)|(at|sending|message|connection"
    r"|mail|recipient) (a |the )?(higher |high )?rate\b|throttl|TSS0?4|slow(ed)? (it )?down|too"
    r" (fast|quickly|frequent|much mail|often)|temporarily deferred|try again slower|receivingrate"
    r"|ReceivingRate",
    r"limite d.envoi|trop de (connexions|mess|mails|courriels)|l[íi]mite de env|cuota de env"
    r"|limite (di|de) (invio|envio)|sendelimit|versandlimit|zu viele (verbindungen|e?-?mails? (von"
    r"|in|pro))|limit wysy[łl]|лимит (отправ|писем|на отправ)|превышен.{0,20}(частот|скорост"
    r"|отправ)"
    r"|слишком (часто|много пис)|频率|頻率|发送(数量|次数|限制|过快)|過多|送信(数|量|制限)|流量制限"
    r"|발송.{0,6}(제한|한도)",
)
OUR_PLAN: Final = _any(
    r"(send(ing)?|outgoing|outbound|submission|relay|monthly|organi[sz]ation|plan|credits?"
    r"|account)"
    r".{0,25}\b(quota|limits?|allowance)|\byou('ve| have)? exceeded|\byour (\w{1,20} ){0,3}(quota"
    r"|limits?|allowance|credits?)"
)
"""Quotas of our plan with a provider; all other quotas belong to a recipient domain."""

THROTTLING: Final = re.compile(
    r"""rate.?limit | limit.{0,20}rate | \brate\b | throttl | too\ (many|fast|quickly|much\ mail)
      | TSS0?4 | sending\ (limit|quota) | temporarily\ deferred | slow(ed)?\ down
      | quota | limit""",
    re.I | re.X,
)
OUR_PROOFS: Final = _any(
    r"\bDKIM\b|\bDMARC\b|\bSPF\b|sender policy framework|domainkeys",
    r"unauthenticated (e-?)?(mail|message|sender)|(domain|message|mail) is (not |un)authenticated",
    r"email authentication|authentication (check|fail|level|requirement|result)",
)
LOGIN: Final = _any(
    r"authenti[fc]i?c?at(ion|e|ed) (is )?(required|first|failed|needed|yourself)"
    r"|not (been )?authenticated"
    r"|was not authenticated|must (first )?(authenticate|log.?in|issue a starttls)|authrequired"
    r"|log.?in (first|required|failed)|smtp.?auth|failed to authenticate|invalid credentials"
    r"|\bSASL\b|need to authenticate"
    r"|requires? authentica"
    r"|pop before smtp|check(ed)? for new mail|starttls (command )?first|(bad|invalid|wrong)"
    r" (credentials?|password|user ?name or)|认证|認証(が|に|エラー)|인증|uwierzytelni"
    r"|autentica[cç]"
    r"|autenticazi|authentifizier|authentification|авторизац|аутентифик|kimlik doğrula"
)
OUR_ACCOUNT: Final = _any(
    r"SendAsDenied|not verified|verified sender|unverified (sender|identity|domain)|identit(y"
    r"|ies) (failed|is"
    r"|not)"
    r"|failed the check in region|sandbox|\bunpaid\b|billing|payment|insufficient (credits?|funds"
    r"|balance)"
    r"|(out of|no more|maximum) credits|upgrade your|activate your|\btrial\b|subscription (has|is"
    r"|expired)",
    r"(your|sending|sender|smtp|customer|api|provider) (\w{1,20} ){0,2}account.{0,40}"
    r"(suspend|disabled|paused|deactivat|not (yet )?(been )?(activated|approved|allowed|enabled)"
    r"|under review|pending|restricted|limited|block|lock|terminated|expired"
    r"|compromis)(?!.{0,40}<>)",
    r"account (is |has been |was )?(temporarily )?(suspend|under review|not (yet )?(activated"
    r"|approved)|paused|on hold|restricted|pending)|(sending|domain|service) (is "
    r"|has been )?paused",
    r"(domain|server|sender) .{0,20}is not allowed to send|sending (has been |is )?(disabled"
    r"|suspended|paused|blocked)|not (a )?registered (gateway|with)|unregistered",
)
OUR_MESSAGE: Final = _any(
    r"(message|mail|e-?mail|letter|data|content|transmission|submission|submitted|it)s?\b.{0,20}"
    r"(was |were |is |been |be )?(not accepted|refused|rejected|denied|discarded|declined"
    r"|disallowed|unacceptable|not allowed|undesired)",
    r"(refus|reject|deny|declin)(ed|ing|es)? (the |this |your |by )?(message|mail|e-?mail"
    r"|recipient"
    r"('s)? (server|system|domain|mail)|content|filter)|message refused|delivery not|not authori",
    r"\bfilter|header|attachment|security|\burls?\b|\blinks?\b|\bMIME\b|bare (lf|line)|line length"
    r"|line too long|non-?ascii|8.?bit|encoding|SMTPUTF8|rfc.?(2?822|5322|2821|5321)|conform"
    r"|compliant|malformed|syntax error in (the )?(message|header)|duplicate header",
    r"(go|stay) away|prohibit|not permitted|not allowed|administra|denied|disallow",
    r"abgelehnt|verweigert|refus[ée]|rejet[ée]|rechazad|rifiutat|respint|rejeitad|recusad"
    r"|geweigerd"
    r"|odrzucon|odm[íi]tnut|отклон|отказан|reddedil|拒绝|拒絕|拒收|拒否|거부|거절|abvist|avvisat",
)
"""Generic phrases for any refused message, so they count only if there is no other evidence."""

THE_WAY: Final = _any(
    r"time-?d? ?-?out|connection (was )?(refused|reset|failed|closed|lost|dropped|aborted)"
    r"|unreachable"
    r"|no route|not respond|could ?n.t connect|unable to connect|cannot connect|servfail"
    r"|server failure",
    r"(DNS|MX|name ?server|lookup|resol\w+).{0,20}(error|fail|temporar|problem|malformed)"
    r"|malformed"
    r" name ?server|try again|loops? back|too many hops|hop count|(mail|routing) loop"
    r"|loop detected",
    r"(server|service) (is )?(temporarily )?(busy|unavailable or busy|overloaded|down"
    r"|not available)",
    r"system (resources|storage)|insufficient (system|disk)|out of memory|deferred|retry",
    r"zeitüberschreitung|nicht erreichbar|délai|injoignable|tiempo (de espera )?agotado|timeout"
    r"|время ожидания|недоступен|超时|逾時|タイムアウト|応答(が|し)|시간.?초과",
)

# --- About the mailbox --------------------------------------------------------------------------

MAILBOX: Final = _any(
    r"\b(users?|recipients?|rcpt|mail ?box(es)?|inbox|accounts?|addressees?|alias|person|member"
    r"|user ?id|nosuchuser|unknownuser|recipientnotfound)\b|NotFound|OFR_?(006_)?41|one (by|here)"
    r"|(e-?mail|recipient|destination) address|hier|aqui|here",
    r"[^\x00-\x7f]|empf|benutzer|adressat|utilisateur|destinatai?r|usuario|utente|konto|adresat"
    r"|gebruiker|ontvanger|buzon|casella|caixa",
)
"""Terms for a reader's mailbox: if a reply has none of them, x.6.z and x.7.z are about us."""

REFUSED_AT_THE_EDGE: Final = _any(r"recipient address(es)? rejected ?: access denied")
# Facebook sends it with 5.1.1.
REFUSED_BY_THE_READER: Final = _any(
    r"recipient preferences|(blocked|rejected|refused) by (the )?(recipient|user|addressee)\b"
    r"|recipient (has )?(blocked|rejected|refused)( your| this| mail)|user reject"
)
REJECTED_ADDRESS: Final = _any(r"address rejected")
YAHOO: Final = _any(r"delivery error: (dd|not|mailbox)\b")
DISABLED: Final = _any(
    r"(user|recipient|mail ?box|inbox|rcpt|<>|alias|e-?mail|address|you).{0,40}(is |been |was "
    r"|has )?"
    r"(disabled|suspended|locked|deactivated|dormant|frozen|turned off|switched off|not enabled)",
    r"(disabled|suspended|locked|frozen) .{0,12}(user|mailbox|recipient)|account .{0,30}disabled"
    r"|disableduser|OverQuotaPerm",
    r"account.{0,20}(disabled|suspended|locked|dormant|frozen).{0,20}<>|<>.{0,40}account.{0,20}"
    r"(disabled|suspended|locked|limited)|(postfach|konto).{0,20}(gesperrt|deaktiviert)"
    r"|(boîte|compte).{0,20}(désactiv|suspend)|cuenta.{0,20}(deshabilit|suspend|inhabilit)"
    r"|(ящик|пользователь|аккаунт).{0,30}(заблокирован|отключ[её]н)|(账|帐|邮箱|用户).{0,6}(冻结|停用|禁用)"
    r"|利用停止|(계정|메일함).{0,8}(정지|휴면)",
)
FULL: Final = re.compile(r"full|quota|over.{0,10}limit|insufficient.{0,20}(mailbox|user)", re.I)
SURELY_FULL: Final = _any(
    r"(mail ?box|mail ?folder|account|inbox).{0,30}\b(full|exceed(ed|s)?\b.{0,30}(limit|size|stor)"
    r"|size limit|storage limit)",
    r"over.?quota|quota.{0,20}exceed|exceed.{0,30}quota|\bdisk ?quota|out of (storage|quota)",
    r"(too many|zuviele) (messages|mails) (on|in|auf)",
    r"OverQuota|not enough .{0,20}space.{0,30}(mailbox|account)",
    r"(postfach|mailbox|speicher).{0,30}\bvoll|kontingent.{0,30}(überschritten|erreicht)",
    r"bo[iî]te.{0,60}\b(pleine|satur)|quota.{0,20}d[ée]pass",
    r"(buz[oó]n|bandeja|cuota|casilla).{0,40}(llen[oa]|excedid|super)",
    r"(casella|mailbox).{0,30}\bpiena|caixa.{0,40}(cheia|lotada)|(postbus|postvak"
    r"|mailbox).{0,20}\bvol\b",
    r"ящик.{0,30}переполнен|skrzynka.{0,30}(pełna|przepełniona)|przekroczon.{0,30}(limit|pojemno)",
    r"(邮箱|信箱|郵箱).{0,20}(已?满|滿|容量|空间)|容量.{0,12}(超|いっぱい|一杯|オーバー|不足)",
    r"メールボックス.{0,20}(いっぱい|一杯|満杯|容量)|(용량|편지함).{0,20}(초과|부족|가득)",
)

LARGE: Final = re.compile(
    r"too much (mail )?data|"
    r"\b(message|mail|size|content|data)\b.{0,30}(too (large|big)|exceed)|exceed.{0,30}size"
    r"|(larger|bigger) than (the )?(maximum|limit|current)|RecipSizeLimit|SIZE=",
    re.I,
)
SURELY_LARGE: Final = _any(
    r"(message|mail) size.{0,20}exceed|(message|mail|size).{0,12}too (large|big)"
    r"|exceed.{0,20}message size"
)
FOR_GOOD: Final = _any(
    r"inactive|not active|closed|discontinued|no longer|deleted|terminated|cancel+ed|expired"
    r"|DisabledUser"
)
"""Terms for a mailbox that is disabled permanently."""

NULL_MX: Final = _any(
    r"null[ -]?MX|\bMX\b.{0,16}\bnull\b|empty MX|\bMX\b[^.]{0,30}[\"'( ]\.[\"') ]|nullmx"
    r"|name server: \.:|\bMX\b.{0,20}points? to (the )?(root|\.)",
    r"(domain|host|site)\b.{0,40}(does not|doesn't|do not|never|don't) (accept|receive"
    r"|take) (any )?"
    r"(e-?)?mails?\b(?! (from|for|message|to ))|no (e-?)?mail (is )?(accepted|received) (for|by"
    r"|at) this"
    r" (domain|host)",
)

FOR_NOW: Final = _any(
    r"temporar|try (again )?later|not found, try again|at this time|\bbusy\b|too many"
    r"|vorübergehend|temporaire|一時的"
)

GONE: Final = _any(
    # the object, then its problem
    r"\b(user|recipient|rcpt|mail ?box|address(ee)?|account|alias|person|member|userid)s?\b"
    r".{0,60}("
    r"unknown|not (be )?(found|known|exist|listed|recogni[sz]ed|valid|registered|present|local"
    r"|active"
    r"|available)|n[o']t a (valid|known|local|recogni[sz]ed)|(does|do)( not|n.?t) (exist|have)"
    r"|invalid|(?<!server )unavai?l?able|unroute?able|undefined|closed|deleted|terminated"
    r"|archived|non-?existent|inactive|deactivated|discontinued"
    r"|no longer|has (been )?(moved|removed|cancel+ed)|is expired"
    r"|couldn't be found|wrong or|not a final)",
    # the problem, then the object
    r"\b(unknown|no such|invalid|unroute?able|non[- ]?existent|bad|undeliverable|illegal"
    r"|inactive"
    r"|obsolete|deactivated|not an? (known|valid|local|active|existing|recogni[sz]ed"
    r"|email))\b.{0,24}"
    r"\b(users?|recipients?|mail ?box|address|account|person|here|alias|local.?part|userid)\b",
    r"\bno (mail ?box|account|users?|one|valid recipients?|email address|recipient)\b",
    r"n't have an?\ .{0,40}(account|mailbox)|not our customer|no longer (with|works?|on server"
    r"|valid|exists?|in (use|service)|accepts|active)",
    r"not in (our |the |my )?(recipient|user|valid).{0,12} list|not in (recipient|user) list"
    r"|not (listed|found|present) in .{0,20}(directory|address book)|unknown or (illegal|not)",
    r"badrcptto|badrecipientto|validrcptto|NoSuchUser|Recip(ient)? ?NotFound|LocalRecipNotFound",
    r"\b(user|recipient|addressee)s? (unknown|not found)|unknown[- ](user|recipient)"
    r"|no such (user|mailbox)",
    r"(does not|doesn't|did not) (exactly )?(match|have) .{0,30}(address|delivery point)"
    r"|account expired",
    r"OFR_?(006_)?41[68]|archived recipient|missing home directory|user not local"
    r"|address changed|has moved|has been replaced by",
    r"can't accept user|no .{1,40} in name directory|^\s*does not exist|address no longer"
    r"|unrecogni[sz]ed (recipient|o/r name)|no matches to nameserver query|never existed"
    r"|no existing (user|mailbox)",
)
GONE_ELSEWHERE: Final = _any(
    # German
    r"(benutzer|empf(ä|ae?)nger|adress(e|at)|mailbox|postfach|konto|teilnehmer).{0,60}(unbekannt"
    r"|ungültig"
    r"|nicht (gefunden|bekannt|vorhanden|existent|verfügbar|mehr)|existiert nicht|gibt es nicht)",
    r"(unbekannte[rn]?|ungültige[rn]?|kein solche[rns]?) (benutzer|empf|adress|postfach|user)",
    # French
    r"(utilisateur|destinataire|adresse|bo[iî]te|compte).{0,60}(inconnue?|n.existe (pas|plus)"
    r"|introuvable"
    r"|inexistante?|invalide|pas (été )?trouv|désactivé)",
    # Spanish, Italian, Portuguese
    r"(usuario|destinatario|direcci[oó]n|buz[oó]n|cuenta).{0,60}(desconocid|no existe"
    r"|no se (ha )?encontr"
    r"|no (es )?v[aá]lid|inexistente|inv[aá]lid)|no existe .{0,20}(usuario|persona|cuenta|buz)"
    r"|no se (ha )?encontr.{0,12} (la |el )?(direcci|usuario|destinatario)",
    r"(utente|destinatario|indirizzo|casella|account).{0,60}(sconosciut|non (esiste|valid"
    r"|è stato trovat"
    r"|è stata trovat|trovat)|inesistente)|nessun utente|impossibile trovare l.indirizzo",
    r"(usu[aá]rio|destinat[aá]rio|endere[cç]o|caixa|conta).{0,60}(desconhecid|n[aã]o (existe"
    r"|foi (encontr"
    r"|localiz)|encontr|é válid)|inexistente|inv[aá]lid)",
    # Dutch, Nordic languages
    r"(gebruiker|ontvanger|adres|postvak|account).{0,60}(onbekend|bestaat niet"
    r"|niet (worden )?gevonden"
    r"|ongeldig)",
    r"onbekende (gebruiker|ontvanger)",
    r"(mottagare|adress|användare|postlåda|modtager|mottaker|bruger|bruker"
    r"|postkasse).{0,60}(okänd|ukendt|ukjent"
    r"|finns inte|findes ikke|finnes ikke|(kunde|kunne|gick) (inte|ikke) (att )?(hitta|finde"
    r"|finne))",
    r"(vastaanottaja|käyttäjä|osoite).{0,60}(ei (löyt|ole)|tuntematon)",
    # Slavic languages, Hungarian, Turkish, Greek
    r"(konto|adresat|odbiorca|użytkownik|uzytkownik|adres|skrzynka).{0,60}(nie ?istnieje|nieznan"
    r"|nie (znaleziono"
    r"|został)|niedost)|nie istnieje|nie ma takiego|nieznany (użytkownik|odbiorca|adresat)",
    r"(uživatel|příjemce|adresa|schránka).{0,60}(neexist|neznám|nenalezen)|neexistuje",
    r"(пользовател|адрес|ящик|получател|почтов|аккаунт).{0,60}(не ?найден|не существует|неизвест"
    r"|удал[её]н|отсутствует|недействител)|нет такого|такого (пользователя|ящика|адреса) н"
    r"|неизвестный (пользов|адрес|получ)",
    r"(címzett|felhasználó|cím).{0,60}(ismeretlen|nem (létezik|található))",
    r"(kullan.c.|al.c.|adres).{0,60}(bulunamad|bilinm|mevcut değil|yok)",
    r"(παραλήπτη|διεύθυνση|χρήστη).{0,60}δεν (βρέθηκε|υπάρχει)",
    # Chinese, Japanese, Korean
    r"(用户|用戶|帐[号户]|帳[號戶]|账[号户]|邮箱|郵箱|信箱|地址|收件人|使用者"
    r"|收信人).{0,30}(不存在|找不到|未找到|无效|無效|不正确|不正確)",
    r"(无此|查无|查無|沒有此|没有这个|不存在的?|找不到|无效的?)(用户|用戶|帐|帳|账|邮箱|郵箱"
    r"|地址|收件人|收信人|使用者)",
    r"(宛先|あて先|ユーザ|アドレス|メールボックス|受信者|アカウント).{0,40}(存在しま|存在しない"
    r"|見つかりま|見つからな"
    r"|不明|間違|正しくな|ありません|無効)|リストにありません|登録されて(いませ|おりませ)"
    r"|(不明な|存在しない)(宛先|ユーザ|アドレス)",
    r"(사용자|수신자|계정|주소|아이디|메일).{0,30}(존재하지|없|찾을 수)|(존재하지 않는|없는"
    r"|잘못된) (사용자|계정|메일|주소|수신)",
    # Hebrew, Arabic, Vietnamese, Indonesian
    r"(הנמען|כתובת).{0,40}(לא (נמצא|קיימ)|אינה? קיימ)|لم يتم العثور على|غير موجود",
    r"(người nhận|địa chỉ|người dùng).{0,40}(không tồn tại|không tìm thấy)|(alamat"
    r"|pengguna).{0,40}tidak (ditemukan|ada)",
)
NO_HOST: Final = _any(
    r"\b(host|domain|domain name|destination|mail server)s?\b.{0,60}(unknown|not found|(does"
    r"|do)(n.?t| not) exist"
    r"|isn't (existent|valid)|non-?existent|not exist|couldn't be found|no such)",
    r"(unknown|no such|non-?existent|bad destination|illegal|invalid|unresolvable"
    r"|unrouteable).{0,12}"
    r"\b(host|domain|system|mail domain)s?\b",
    r"couldn't find (any host|a mail exchanger)|NXDOMAIN|no (valid )?(MX|mail exchanger)"
    r"|could not find a gateway|name or service not known|host_?unknown",
    r"(domäne|domaine?|dominio|домен|домена).{0,40}(nicht gefunden|existiert nicht|n.existe pas"
    r"|introuvable"
    r"|no existe|non esiste|não existe|не существует|не найден)|域名.{0,10}(不存在|找不到"
    r"|无法解析)",
)
